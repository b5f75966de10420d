"""The check of a file's tensors and metadata against the schema of its kind."""

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
        where: The file, for error messages.
        kind: The schema.
        tensors: Name to (dtype, shape), as in a safetensors header.
        info: The header's ``info``.

    Raises:
        ArtifactError: Anything differs from the schema.
    """
    if not isinstance(info, dict):
        raise ArtifactError(where, "info must be a mapping")
    for key in kind.metadata:
        if key not in info:
            raise ArtifactError(where, f"{kind.name} metadata must have {key}")
    exact: dict[str, Tensor] = {}
    prefixes: tuple[str, ...] = ()
    for spec in kind.tensors:
        present = spec.name in tensors
        if spec.name.endswith("*"):
            prefixes += (spec.name[:-1],)
            present = any(name.startswith(prefixes[-1]) for name in tensors)
        else:
            exact[spec.name] = spec
        if spec.required and not present:
            raise ArtifactError(where, f"{kind.name} must have tensor {spec.name}")
    # One axis letter is one size within a file; the second part says who set it.
    sizes: dict[str, tuple[int, str]] = {}
    if "class_names" in kind.metadata:
        sizes["C"] = (_num_classes(where, info), "class_names")
    for name, (dtype, shape) in sorted(tensors.items()):
        if not _TENSOR_NAME.fullmatch(name):
            rule = f"tensor names must be letters, digits, dots and dashes, got {name[:80]!r}"
            raise ArtifactError(where, rule)
        if name in exact:
            _check_tensor(where, exact[name], dtype, shape, sizes)
        elif not name.startswith(prefixes):
            raise ArtifactError(where, f"{kind.name} has no tensor {name}")


def _num_classes(where: object, info: dict[str, Any]) -> int:
    names, counts = info["class_names"], info["class_counts"]
    if not isinstance(names, list) or not set(map(type, names)) <= {str}:
        raise ArtifactError(where, "class_names must be a list of text")
    # Not isinstance: True is an int.
    if (
        not isinstance(counts, list)
        or not set(map(type, counts)) <= {int}
        or min(counts, default=0) < 0
    ):
        raise ArtifactError(where, "class_counts must be a list of counts")
    if len(counts) != len(names):
        rule = f"axis C is {len(counts)} in class_counts but {len(names)} in class_names"
        raise ArtifactError(where, rule)
    return len(names)


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
        known, owner = (axis, "the schema")
        if isinstance(axis, str):
            known, owner = sizes.setdefault(axis, (size, spec.name))
        if size != known:
            rule = f"axis {axis} is {size} in {spec.name} but {known} in {owner}"
            raise ArtifactError(where, rule)
