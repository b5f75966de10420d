"""split: long-tailed training, validation and test images from a data set."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ltcli.core.context import Context
from ltcli.core.params import param
from ltcli.data.source_table import SOURCES, require_root
from ltcli.stages.stage import Result, Stage

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.data.pool import Pool

logger = logging.getLogger(__name__)

# More classes than this are thinned out in the chart.
MAX_BARS = 25


@dataclass(frozen=True)
class Params:
    """Parameters of split."""

    source: Literal["cifar10", "cifar100", "fashion-mnist", "digits", "folder"] = param(
        help="the data set", positional=True
    )
    root: str | None = param(None, "folder that holds the data set", identity=False)
    download: bool = param(False, "fetch the data set into --root if missing", identity=False)
    profile: Literal["auto", "exp", "step", "natural"] = param(
        "auto", "class counts: exponential, two steps, or as they are; auto is natural for folder"
    )
    imbalance_factor: float = param(100.0, "largest class over smallest, for exp and step")
    protocol: Literal["holdout", "cao"] = param(
        "holdout",
        "validation images leave the pool first; or exactly the images of LDAM-DRW (Cao et al.)",
    )
    val_per_class: int | None = param(
        None, "validation images per class; 10 for holdout and 0 for cao if not given", ge=0
    )
    test_fraction: float = param(
        0.3, "share cut off as test set where the source has none", gt=0, lt=1
    )
    image_size: int = param(32, "side of the images, pixels, for folder", ge=8, le=512)
    on_bad_image: Literal["fail", "skip"] = param("fail", "what to do with unreadable images")
    seed: int = param(0, "which images are taken", ge=0, lt=2**32)


def run(params: Params, _inputs: Mapping[str, Any], context: Context) -> Result:
    """Load the source, cut test and validation sets, and take the long-tailed training set."""
    import numpy as np
    import torch

    from ltcli.data import long_tail, sources

    pool = sources.load_source(
        params.source,
        Path(params.root) if params.root is not None else None,
        download=params.download,
        image_size=params.image_size,
        on_bad_image=params.on_bad_image,
    )
    labels = pool.labels.numpy()
    test_index, rest = _cut_test(params, pool)
    val_per_class = params.val_per_class
    if val_per_class is None:
        val_per_class = 10 if params.protocol == "holdout" else 0
    val = np.empty(0, np.int64)
    if params.protocol == "holdout":
        held, kept = long_tail.holdout_indices(labels[rest], val_per_class, params.seed)
        val, rest = rest[held], rest[kept]
    profile = params.profile
    if profile == "auto":
        profile = "natural" if SOURCES[params.source].natural else "exp"
    pool_counts = np.bincount(labels[rest], minlength=len(pool.class_names)).tolist()
    counts = long_tail.profile_counts(profile, pool_counts, params.imbalance_factor)
    train = rest[long_tail.cao_indices(labels[rest], counts, params.seed)]
    if params.protocol == "cao" and val_per_class > 0:
        val, train = long_tail.cut_validation(labels, train, val_per_class, params.seed)
    tensors = _tensors(pool, train, val, test_index)
    train_images = tensors["train.images"]
    mean, std = _normalisation(params.source, train_images)
    info = {
        "class_names": list(pool.class_names),
        "class_counts": np.bincount(labels[train], minlength=len(pool.class_names)).tolist(),
        "val_counts": np.bincount(labels[val], minlength=len(pool.class_names)).tolist(),
        "mean": mean,
        "std": std,
        "source": params.source,
        "store": "images",
        "image_size": list(train_images.shape[1:3]),
        "profile": profile,
        "skipped": len(pool.skipped),
    }
    for line in pool.skipped:
        logger.warning("split: skipped %s", line)
        context.log({"event": "skipped", "file": line})
    _warn_of_short_validation(info["val_counts"], val_per_class)
    if pool.files:
        blob = "\0".join(pool.files).encode()
        tensors["files"] = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
    return Result(tensors, info)


def _cut_test(params: Params, pool: Pool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return pool positions of the test images, none if the source has its own, and the rest."""
    import numpy as np

    from ltcli.data import long_tail

    labels = pool.labels.numpy()
    if pool.test_images is not None:
        return np.empty(0, np.int64), np.arange(len(labels))
    counts = np.bincount(labels)
    per_class = [max(1, int(count * params.test_fraction)) for count in counts]
    rest_mask = np.ones(len(labels), bool)
    test = long_tail.cao_indices(labels, per_class, params.seed)
    rest_mask[test] = False
    return test, np.flatnonzero(rest_mask)


def _tensors(
    pool: Pool,
    train: np.ndarray[Any, Any],
    val: np.ndarray[Any, Any],
    test: np.ndarray[Any, Any],
) -> dict[str, torch.Tensor]:
    import torch

    tensors = {}
    for part, rows in (("train", train), ("val", val), ("test", test)):
        index = torch.from_numpy(rows)
        tensors[f"{part}.images"] = pool.images[index]
        tensors[f"{part}.labels"] = pool.labels[index]
        tensors[f"{part}.index"] = index
    if pool.test_images is not None and pool.test_labels is not None:
        tensors["test.images"] = pool.test_images
        tensors["test.labels"] = pool.test_labels
        tensors["test.index"] = torch.arange(len(pool.test_labels))
    return tensors


def _normalisation(source: str, images: torch.Tensor) -> tuple[list[float], list[float]]:
    """Return mean and std per channel in 0..1: published ones, or of the training images."""
    import torch

    entry = SOURCES[source]
    if entry.mean is not None and entry.std is not None:
        return list(entry.mean), list(entry.std)
    flat = images.reshape(-1, 3)
    histogram = torch.stack([torch.bincount(flat[:, i].long(), minlength=256) for i in range(3)])
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = histogram.double() / len(flat)
    mean = shares @ values
    std = (shares @ values**2 - mean**2).clamp(min=1e-4).sqrt()
    return [round(x, 4) for x in mean.tolist()], [round(x, 4) for x in std.tolist()]


def _warn_of_short_validation(val_counts: list[int], wanted: int) -> None:
    short = [count for count in val_counts if count < wanted]
    if short:
        logger.warning(
            "split: %d of %d classes are too small for %d validation images, they give %d to %d",
            len(short),
            len(val_counts),
            wanted,
            min(short),
            max(short),
        )


def fingerprint(params: Params) -> dict[str, str]:
    """Return a fingerprint of a folder's file names and sizes, so that a changed folder is seen."""
    if params.source != "folder" or params.root is None:
        return {}
    lines = []
    for folder, _, files in os.walk(params.root):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                lines.append(f"{os.path.relpath(path, params.root)}\0{os.path.getsize(path)}")
    text = "\n".join(sorted(lines)).encode(errors="surrogateescape")
    return {"folder": hashlib.sha256(text).hexdigest()}


def check(params: Params, _headers: Mapping[str, Any]) -> None:
    """Check what can be known before any image is read."""
    from ltcli.data.long_tail import require_factor

    require_factor(params.imbalance_factor)
    require_root(params.source, params.root)


def show(header: Header) -> list[str]:
    """Return a bar chart of the training images per class, and the sizes of parts and groups."""
    info = header.info
    counts, names = info["class_counts"], info["class_names"]
    step = max(1, -(-len(counts) // MAX_BARS))
    width = max(len(name) for name in names[::step])
    most = max(counts)
    lines = [
        f"{name:>{width}}  {count:>7,}  {'#' * max(1, round(40 * count / most))}"
        for name, count in zip(names[::step], counts[::step], strict=True)
    ]
    if step > 1:
        lines.append(f"(every {step}th of {len(counts)} classes)")
    groups = {"many": 0, "medium": 0, "few": 0}
    for count in counts:
        groups["many" if count > 100 else "medium" if count >= 20 else "few"] += 1
    sizes = [f"{header.size(f'{p}.labels', 0):,} {p}" for p in ("train", "val", "test")]
    lines.append(
        f"{', '.join(sizes)} images; largest class {most / min(counts):.4g} times smallest"
    )
    shown = ", ".join(f"{count} {name}" for name, count in groups.items())
    lines.append(f"classes: {shown} (more than 100, 20 to 100, fewer than 20 training images)")
    return lines


STAGE = Stage(
    name="split",
    summary="Take long-tailed train, validation and test images from a data set.",
    params=Params,
    inputs=(),
    output="split",
    run=run,
    examples=(
        "ltcli split digits --imbalance-factor 20 -d artifacts/digits",
        "ltcli split cifar10 --root data --protocol cao -d artifacts/c10-100",
        "ltcli split folder --root photos --image-size 64 -d artifacts/photos",
    ),
    external=fingerprint,
    check=check,
    show=show,
)
