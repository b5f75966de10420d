"""Content of an artifact against the schema of its kind: the header first, tensors when loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ltcli.artifacts.kinds import BY_ENDING, Kind, Tensor, Values
from ltcli.core.errors import ArtifactError

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor to its dtype and shape."""

_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
# A path with such a part leaves the folder of the images, or is not below it.
_OUTSIDE = re.compile(rb"(?:\A|\0)/|(?:\A|[/\0])\.\.(?:[/\0]|\Z)")
_ANY = Values()


def check_schema(where: object, kind: Kind, tensors: Shapes, info: object) -> dict[str, int]:
    """Return the size of each axis letter.

    Raises:
        ArtifactError: Names, dtypes, axes or metadata of a file differ from its kind.
    """
    if not isinstance(info, dict):
        raise ArtifactError(where, "info must be a mapping")
    # One axis letter is one size within a file; the second part says who set it.
    sizes: dict[str, tuple[int, str]] = {}
    for key, entry in kind.metadata.items():
        if key not in info:
            if entry.required:
                raise ArtifactError(where, f"{kind.name} metadata must have {key}")
            continue
        if fault := entry.fault(key, info[key]):
            raise ArtifactError(where, fault)
        for axis, size in entry.axes(info[key]).items():
            _check_axis(where, sizes, axis, size, key)
    if fault := kind.whole(info):
        raise ArtifactError(where, fault)
    exact: dict[str, Tensor] = {}
    prefixes: dict[str, Tensor] = {}
    for spec in kind.tensors:
        prefix = spec.name.removesuffix("*")
        present = spec.name in tensors
        if prefix != spec.name:
            prefixes[prefix] = spec
            present = any(name.startswith(prefix) for name in tensors)
        else:
            exact[spec.name] = spec
        if not present and _is_required(spec, info):
            raise ArtifactError(where, f"{kind.name} must have tensor {spec.name}")
    for name, (dtype, shape) in sorted(tensors.items()):
        if not _TENSOR_NAME.fullmatch(name):
            rule = f"tensor names must be letters, digits, dots and dashes, got {name[:80]!r}"
            raise ArtifactError(where, rule)
        known = exact.get(name) or next((prefixes[p] for p in prefixes if name.startswith(p)), None)
        if known is None:
            raise ArtifactError(where, f"{kind.name} has no tensor {name}")
        _check_tensor(where, known, name, dtype, shape, sizes)
    return {axis: size for axis, (size, _) in sizes.items()}


def _is_required(spec: Tensor, info: Mapping[str, Any]) -> bool:
    if isinstance(spec.required, bool):
        return spec.required
    key, *words = spec.required
    return info[key] in words


def _check_axis(
    where: object, sizes: dict[str, tuple[int, str]], axis: str, size: int, name: str
) -> None:
    known, owner = sizes.setdefault(axis, (size, name))
    if size != known:
        rule = f"axis {axis} is {size} in {name} but {known} in {owner}"
        raise ArtifactError(where, rule)


def _check_tensor(
    where: object,
    spec: Tensor,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    sizes: dict[str, tuple[int, str]],
) -> None:
    if spec.dtypes and dtype not in spec.dtypes:
        raise ArtifactError(where, f"{name} must be {' or '.join(spec.dtypes)}, got {dtype}")
    if spec.axes is None:
        return
    axes = spec.axes
    if axes[-1:] == ("...",):
        axes = axes[:-1]
        shape = shape[: len(axes)]
    if len(axes) != len(shape):
        shown = ", ".join(map(str, spec.axes))
        raise ArtifactError(where, f"{name} must have axes [{shown}], got {list(shape)}")
    for axis, size in zip(axes, shape, strict=True):
        if isinstance(axis, str):
            _check_axis(where, sizes, axis, size, name)
        elif size != axis:
            raise ArtifactError(where, f"axis {axis} is {size} in {name} but {axis} in the schema")


def check_values(
    where: object,
    kind: Kind,
    sizes: Mapping[str, int],
    info: Mapping[str, Any],
    name: str,
    tensor: torch.Tensor,
) -> None:
    """Raise ArtifactError where the numbers of a tensor, or of some rows of it, break its rule."""
    spec = next((spec for spec in kind.tensors if spec.name == name), None)
    if spec is None:
        fault = fault_by_ending(name, tensor)
    else:
        fault = fault_of(spec.values, sizes, info, tensor)
    if fault:
        raise ArtifactError(where, f"{name} must {fault}")


def fault_by_ending(name: str, tensor: torch.Tensor) -> str | None:
    """Return the rule that a tensor of a network or an optimiser breaks; see ``fault_of``."""
    # A schema knows the beginnings of such names alone; their ending tells what they are.
    found = (values for ending, values in BY_ENDING.items() if name.endswith(ending))
    return fault_of(next(found, _ANY), {}, {}, tensor)


def fault_of(
    values: Values, sizes: Mapping[str, int], info: Mapping[str, Any], tensor: torch.Tensor
) -> str | None:
    """Return the rule that a tensor breaks, behind "must"; None where it keeps all."""
    import torch

    # Any other byte is a flag that is neither true nor false.
    if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        return "be 0 or 1"
    if values == _ANY:
        return None
    if values.paths:
        return _fault_of_paths(bytes(tensor.cpu().numpy()), _rows(values, sizes))
    if values.rows and len(tensor) != _rows(values, sizes):
        return f"have {_rows(values, sizes)} numbers, got {len(tensor)}"
    numbers = tensor.diagonal(dim1=-2, dim2=-1) if values.diagonal else tensor
    if not numbers.numel():
        return None
    least, most = values.least, values.most
    if values.below:
        most = sizes[values.below] - 1
    low, high = (float(number) for number in numbers.aminmax())
    if (least is not None and low < least) or (most is not None and high > most):
        wrong = low if least is not None and low < least else high
        rule = f"be at least {least:g}" if most is None else f"be in {least:g} ... {most:g}"
        return f"{rule}, got {wrong:g}"
    if values.rising and bool((numbers.diff() <= 0).any()):
        return "rise"
    if values.spans:
        end = sizes[values.spans]
        if low != 0 or high != end or numbers[0] != 0 or bool((numbers.diff() < 0).any()):
            return f"rise from 0 to {end}"
    if values.counted:
        found = numbers.bincount(minlength=sizes[values.below]).tolist()
        if found != info[values.counted]:
            return f"occur as often as {values.counted} says"
    return None


def _rows(values: Values, sizes: Mapping[str, int]) -> int:
    return sum(sizes[axis] for axis in values.rows)


def _fault_of_paths(content: bytes, number: int) -> str | None:
    """Return the rule that paths joined by NUL break; None where they keep all."""
    found = content.count(b"\0") + 1 if content else 0
    if found != number:
        return f"hold {number} paths, got {found}"
    if _OUTSIDE.search(content):
        return "hold paths below one folder, got one that leaves it"
    try:
        content.decode()
    except UnicodeDecodeError:
        return "hold paths in UTF-8, got other bytes"
    return None
