"""What ``ltcli doctor`` looks at."""

import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ltcli.core.errors import ResourceError


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        name: What.
        ok: Whether it is as it should be.
        text: What was found.
        hint: The remedy, if it is not ok.
    """

    name: str
    ok: bool
    text: str
    hint: str | None = None


def examine(folder: Path) -> list[Finding]:
    """Return everything that was checked, in order."""
    return [_versions(), _pair(), _devices(), _precision(), *_disk(folder)]


def first_error(findings: list[Finding]) -> ResourceError | None:
    """Return the first finding that is not ok as an error, None if all are ok."""
    for finding in findings:
        if not finding.ok:
            return ResourceError("doctor", f"{finding.name}: {finding.text}", finding.hint)
    return None


def _versions() -> Finding:
    names = ("ltcli", "torch", "torchvision", "safetensors", "numpy", "typer")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            hint = f"pip install {name}"
            return Finding("packages", False, f"{name} is not installed", hint)
    return Finding("packages", True, ", ".join(found))


def _pair() -> Finding:
    hint = "install torch and torchvision together, from the same index"
    try:
        import torchvision

        torchvision.ops.nms  # noqa: B018  - the operator that a mismatched pair lacks
    except (ImportError, RuntimeError, AttributeError) as error:
        return Finding("torch and torchvision", False, str(error).splitlines()[0], hint)
    return Finding("torch and torchvision", True, "belong together")


def _devices() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("Apple MPS")
    cpu = f"CPU with {torch.get_num_threads()} threads"
    return Finding("devices", True, ", ".join([*names, cpu]))


def _precision() -> Finding:
    from ltcli.engine.device import resolve_device, resolve_precision

    device = resolve_device("auto")
    dtype = str(resolve_precision("auto", device)).removeprefix("torch.")
    return Finding("default", True, f"{dtype} on {device}")


def _disk(folder: Path) -> list[Finding]:
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    hint = "free some space, or choose another --dir"
    space = Finding("disk", free > 1e9, f"{free / 1e9:.1f} GB free at {there}", hint)
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(b"ltcli")
            file.flush()
    except OSError as error:
        text = f"{there} cannot be written: {error.strerror}"
        return [space, Finding("write test", False, text, "choose another --dir")]
    return [space, Finding("write test", True, f"{there} can be written")]
