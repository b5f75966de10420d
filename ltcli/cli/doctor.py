"""doctor: whether packages, devices and disk are fit for work."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import typer

from ltcli.cli.commands import Command
from ltcli.core.errors import ResourceError, cause
from ltcli.core.params import param


@dataclass(frozen=True)
class Params:
    """Parameters of doctor."""

    dir: Path = param(Path("artifacts"), "folder that is tested for space and writing", short="d")


@dataclass(frozen=True)
class Finding:
    """Result of one check: version, device, space or fault of a part, and the remedy of a fault."""

    name: str
    ok: bool
    text: str
    hint: str | None = None


def run(params: Params, as_json: bool) -> None:
    """Print every check."""
    findings = [_versions(), *_torch(), *_disk(params.dir)]
    document = {"findings": [asdict(finding) for finding in findings]}
    failed = [finding for finding in findings if not finding.ok]
    if not as_json:
        for finding in findings:
            typer.echo(f"{'ok' if finding.ok else 'FAILED':<7} {finding.name}: {finding.text}")
    elif not failed:
        typer.echo(json.dumps(document, sort_keys=True))
    if failed:
        error = ResourceError("doctor", f"{failed[0].name}: {failed[0].text}", failed[0].hint)
        error.found = document
        raise error


def _versions() -> Finding:
    found = []
    for name in ("ltcli", "torch", "torchvision", "safetensors", "numpy", "typer"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            return Finding("packages", False, f"{name} is not installed", f"pip install {name}")
    return Finding("packages", True, ", ".join(found))


def _torch() -> Iterator[Finding]:
    """Checks that need torch, up to the first that fails."""
    pair = "install torch and torchvision together, from the same index"
    driver = "install the torch that fits the driver of this machine"
    for name, look, hint in (
        ("torch and torchvision", _pair, pair),
        ("devices", _devices, driver),
        ("default", _precision, driver),
    ):
        try:
            yield Finding(name, True, look())
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            reason = str(error) or type(error).__name__
            yield Finding(name, False, reason.splitlines()[0], hint)
            # The others would fail for the same reason.
            return


def _pair() -> str:
    import torchvision

    torchvision.ops.nms  # noqa: B018  - the operator that a mismatched pair lacks
    return "belong together"


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("Apple MPS")
    return ", ".join([*names, f"CPU with {torch.get_num_threads()} threads"])


def _precision() -> str:
    from ltcli.compute.device import resolve_device, resolve_precision

    device = resolve_device("auto")
    dtype = str(resolve_precision("auto", device)).removeprefix("torch.")
    return f"{dtype} on {device}"


def _disk(folder: Path) -> Iterator[Finding]:
    there = folder
    try:
        while not there.exists():
            there = there.parent
        disk = shutil.disk_usage(there)
        # Some network file systems know no size, and say zero.
        free = f"{disk.free / 1e9:.1f} GB free" if disk.total else "unknown space"
        hint = "free some space, or choose another --dir"
        yield Finding("disk", not disk.total or disk.free > 1e9, f"{free} at {there}", hint)
        # Permissions alone do not tell: quotas and read-only mounts refuse only the write.
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(b"ltcli")
            file.flush()
    except OSError as error:
        text = f"{there} cannot be written: {cause(error)}"
        yield Finding("write test", False, text, "choose another --dir")
    else:
        yield Finding("write test", True, f"{there} can be written")


COMMAND = Command(
    name="doctor",
    summary="Check the installation: packages, devices and disk.",
    group="Looking",
    params=Params,
    run=run,
    examples=("ltcli doctor", "ltcli doctor --json -d artifacts"),
)
