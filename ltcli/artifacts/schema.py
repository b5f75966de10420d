"""Check what a file holds against the schema of its kind."""

import re
from typing import Any

from ltcli.artifacts.kinds import Kind, Tensor
from ltcli.core.errors import ArtifactError

_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def check_schema(
    where: object, kind: Kind, tensors: dict[str, tuple[str, tuple[int, ...]]], info: object
) -> None:
    """Check names, dtypes, axes and metadata of a file against its kind.

    Args:
        where: What an error names: the file.
        kind: The schema.
        tensors: Name to (dtype, shape), as in a safetensors header.
        info: The header's ``info``.

    Raises:
        ArtifactError: Anything differs from the schema.
    """
    if not isinstance(info, dict):
        raise ArtifactError(where, "info must be a mapping")
    missing = [key for key in kind.metadata if key not in info]
    if missing:
        raise ArtifactError(where, f"{kind.name} metadata must have {missing[0]}")
    exact = {spec.name: spec for spec in kind.tensors if not spec.name.endswith("*")}
    groups = [spec for spec in kind.tensors if spec.name.endswith("*")]
    for spec in kind.tensors:
        present = spec.name in tensors or (
            spec in groups and any(name.startswith(spec.name[:-1]) for name in tensors)
        )
        if spec.required and not present:
            raise ArtifactError(where, f"{kind.name} must have tensor {spec.name}")
    sizes: dict[str, tuple[int, str]] = {}
    if "class_names" in kind.metadata:
        _check_classes(where, info)
        sizes["C"] = (len(info["class_names"]), "class_names")
    for name, (dtype, shape) in sorted(tensors.items()):
        if not _TENSOR_NAME.fullmatch(name):
            rule = f"tensor names must be letters, digits, dots and dashes, got {name[:80]!r}"
            raise ArtifactError(where, rule)
        if name in exact:
            _check_tensor(where, exact[name], dtype, shape, sizes)
        elif not any(name.startswith(spec.name[:-1]) for spec in groups):
            raise ArtifactError(where, f"{kind.name} has no tensor {name}")


def _check_classes(where: object, info: dict[str, Any]) -> None:
    names, counts = info["class_names"], info["class_counts"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ArtifactError(where, "class_names must be a list of text")
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        raise ArtifactError(where, "class_counts must be a list of counts")
    if len(counts) != len(names):
        rule = f"axis C is {len(counts)} in class_counts but {len(names)} in class_names"
        raise ArtifactError(where, rule)


def _check_tensor(
    where: object,
    spec: Tensor,
    dtype: str,
    shape: tuple[int, ...],
    sizes: dict[str, tuple[int, str]],
) -> None:
    if spec.dtypes and dtype not in spec.dtypes:
        rule = f"{spec.name} must be {' or '.join(spec.dtypes)}, got {dtype}"
        raise ArtifactError(where, rule)
    axes = spec.axes or ()
    if len(axes) != len(shape):
        shown = ", ".join(map(str, axes))
        raise ArtifactError(where, f"{spec.name} must have axes [{shown}], got {list(shape)}")
    for axis, size in zip(axes, shape, strict=True):
        known, owner = (
            sizes.setdefault(axis, (size, spec.name))
            if isinstance(axis, str)
            else (
                axis,
                "the schema",
            )
        )
        if size != known:
            rule = f"axis {axis} is {size} in {spec.name} but {known} in {owner}"
            raise ArtifactError(where, rule)
