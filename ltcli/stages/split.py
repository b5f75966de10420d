"""split: long-tailed training, validation and test images from a data set."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ltcli.core.context import Context
from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.core.table import aligned
from ltcli.core.text import clipped, first_few, lacking, printable
from ltcli.data.data_files import fingerprint
from ltcli.data.source_table import (
    FILE_PARAMETERS,
    MAX_PIXELS,
    OPTION_PARAMETERS,
    PARTS,
    SOURCES,
    STORED_SIZE,
    Request,
    require_options,
)
from ltcli.stages.stage import Checked, Result, Stage
from ltcli.stats.pixel_statistics import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.data.class_names import Labels
    from ltcli.data.long_tail import Profile
    from ltcli.data.pool import Pool

    SourceName = str
else:
    # A line of the table is all that a new source needs; the type checker wants a literal.
    SourceName = Literal[tuple(SOURCES)]

logger = logging.getLogger(__name__)

# Side of images in pixels that are decoded by the stages that use them.
_FILES_SIZE = 224
# More classes than this are thinned out in the chart.
_MAX_BARS = 25
_LONG_TAILED = ", ".join(name for name, source in SOURCES.items() if not source.natural)


def _file(text: str) -> Any:
    return param(None, text, identity=False)


def _name(text: str) -> Any:
    return param(None, text)


@dataclass(frozen=True)
class Params:
    """Parameters of split."""

    source: SourceName = param(help="data set to split", positional=True)
    root: str | None = _file(
        "folder of the data set; for parquet and embeddings a folder or a file"
    )
    download: bool = param(False, "fetch the data set into --root if missing", identity=False)
    train_list: str | None = _file(
        "(list, *-lt, inat20xx) training images, a file of lines 'path label'"
    )
    val_list: str | None = _file("(list, *-lt) validation images, in the same form")
    test_list: str | None = _file("(list, *-lt, inat20xx) test images, in the same form")
    class_names: str | None = _file(
        "(list, *-lt, inat20xx, embeddings) file of class names, one a line, from class 0 on"
    )
    table: str | None = _file("(csv) table with a path and a label in each line")
    path_column: str | None = _name(
        "column of the image: its path (csv), its bytes (parquet), or the name of its file"
        " (embeddings); default: the only one of path, file, filename, image, img and image_id"
    )
    label_column: str | None = _name(
        "(csv, parquet) column of the class; default: the only one of label, labels, class and"
        " fine_label"
    )
    split_column: str | None = _name(
        "(csv, parquet) column of the part, train, val or test; default: split in csv, none in"
        " parquet"
    )
    group_column: str | None = _name(
        "(csv, parquet) column of what an image shows, as an animal or a burst; images of one group"
        " are put in one part"
    )
    suffix: str | None = _name("(csv, list) suffix to add to paths without it, such as .jpg")
    features_key: str | None = _name(
        "(embeddings) array or column of the features, in csv the start of their columns' names;"
        " default: features, in csv all other columns"
    )
    labels_key: str | None = _name(
        "(embeddings) array or column of the classes; default: labels, in tables as label_column"
    )
    train_json: str | None = _file("(inat*) annotations of the training images")
    val_json: str | None = _file(
        "(inat*) annotations of the official validation images, which become the test part"
    )
    labels: str | None = _file("(embeddings) npy file of labels, for an npy file of features")
    partial: bool = param(False, "(*-lt, inat20xx) accept a part of the published images")
    profile: Literal["auto", "exp", "step", "natural"] = param(
        "auto",
        "class counts: exponential, two steps, or those of the data set; auto is exp for"
        f" {_LONG_TAILED}, and natural for all others",
    )
    imbalance_factor: float = param(
        100.0, "size of the largest class over that of the smallest, at least 1; for exp and step"
    )
    protocol: Literal["holdout", "cao"] = param(
        "holdout",
        "holdout takes validation images out before the classes are cut; cao draws as LDAM-DRW"
        " (Cao et al.) does, which gives its images on CIFAR in the published order",
    )
    val_per_class: int | None = param(
        None,
        "validation images per class, where the source has none of its own; if not given, 0 for"
        " cao, a tenth of each class of own data, and else 10",
        ge=0,
    )
    test_fraction: float = param(
        0.3, "part of each class that becomes the test set where the source has none", gt=0, lt=1
    )
    group_by: str | None = param(
        None, "regular expression that finds the group of an image in its path; see --group-column"
    )
    store: Literal["auto", "images", "files"] = param(
        "auto",
        "(folder, list, csv, *-lt, inat*) decode images now, or keep their paths and decode them"
        " in use; auto is images if --image-size is given and they take at most 4 GiB",
    )
    image_size: int | None = param(
        None,
        "side of the images in pixels, where the data set fixes none; if not given,"
        f" {STORED_SIZE} in store images and {_FILES_SIZE} in store files",
        ge=8,
        le=512,
    )
    max_pixels: int = param(
        MAX_PIXELS, "largest image in pixels; larger ones count as unreadable", ge=1
    )
    on_bad_image: Literal["fail", "skip"] = param(
        "fail", "stop at unreadable images, or leave them out"
    )
    verify: bool = param(
        False,
        "decode all first, to find damaged files, and images that are the same or look alike in two"
        " classes or parts",
    )
    seed: int = param(0, "seed of the draw of images", ge=0, lt=2**32)


def run(params: Params, _inputs: Mapping[str, Any], context: Context) -> Result:
    """Load the source, cut test and validation sets, and take the long-tailed training set."""
    import torch

    from ltcli.data import sources
    from ltcli.data.groups import numbered

    if params.root is not None:
        # Only in the log: the same images in another folder make the same split.
        context.log({"event": "root", "root": os.path.abspath(params.root)})
    request = Request(
        params.source,
        Path(params.root or ""),
        _given(params, FILE_PARAMETERS),
        download=params.download,
        store=params.store,
        image_size=params.image_size,
        max_pixels=params.max_pixels,
        on_bad_image=params.on_bad_image,
        partial=params.partial,
        verify=params.verify,
        options=_given(params, OPTION_PARAMETERS),
    )
    pool = sources.load_source(request)
    for line in pool.skipped:
        logger.warning("split: skipped %s", line)
        context.log({"event": "skipped", "file": line})
    profile = _profile(params)
    groups = numbered(pool.parts, params.group_by, params.root or params.source)
    chosen = _choose(params, pool, profile, groups)
    tensors = _tensors(pool, chosen, groups)
    _say_copies(pool, chosen, context)
    if params.protocol == "cao" and pool.published is not None:
        _compare_with_cao(params.seed, _val_per_class(params, pool), pool.published)
    mean, std = _pixel_statistics(params.source, pool.store, tensors)
    image_size: list[int] = []
    if pool.store != "features":
        image_size = [params.image_size or _FILES_SIZE] * 2
    if pool.store == "images":
        image_size = list(pool.train.data.shape[1:3])
    size = len(pool.class_names)
    counts = {part: tensors[f"{part}.labels"].bincount(minlength=size).tolist() for part in PARTS}
    info = {
        "class_names": list(pool.class_names),
        "class_counts": counts["train"],
        "val_counts": counts["val"],
        # Of all images that the source has, whichever of them were taken.
        "source_counts": torch.cat([part.labels for part in pool.parts.values()])
        .bincount(minlength=size)
        .tolist(),
        "groups": _group_counts(tensors),
        "mean": mean,
        "std": std,
        "source": params.source,
        "store": pool.store,
        "image_size": image_size,
        "max_pixels": params.max_pixels,
        "profile": profile,
        "skipped": len(pool.skipped),
    }
    # Whole groups seldom give exactly what is wanted, whatever the size of a class.
    wanted = 0 if groups else _val_per_class(params, pool) or 0
    _warn_of_short_classes(pool.class_names, counts["val"], wanted, counts["test"])
    return Result(tensors, info)


def _profile(params: Params) -> Profile:
    if params.profile != "auto":
        return params.profile
    return "natural" if SOURCES[params.source].natural else "exp"


def _given(params: Params, names: Iterable[str]) -> dict[str, str]:
    """Return those of some parameters that were given."""
    values = {name: getattr(params, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _val_per_class(params: Params, pool: Pool) -> int | None:
    """Return the number of validation images to cut off each class; None leaves the tail alone."""
    if pool.val is not None and params.val_per_class is not None:
        rule = "val_per_class must not be given where the source has validation images"
        raise ParamError("split", rule, "leave the option out")
    if params.val_per_class is not None:
        return params.val_per_class
    if pool.val is not None or params.protocol == "cao":
        return 0
    source = SOURCES[params.source]
    return None if source.natural and source.counts is None else 10


def _compare_with_cao(seed: int, val_per_class: int | None, published: bool) -> None:
    """Say whether the images of CIFAR are those of LDAM-DRW, whose code has seed 0."""
    if not published:
        rule = "the files do not have the published checksums, and positions count in their order"
        logger.warning("split: whether these are the images of LDAM-DRW is not known: %s", rule)
    elif seed or val_per_class:
        rule = "LDAM-DRW has seed 0 and no validation images"
        logger.info("split: drawn as LDAM-DRW draws, but not its images: %s", rule)
    else:
        rule = "the files have the published checksums"
        logger.info("split: exactly the images of LDAM-DRW: %s", rule)


def _choose(
    params: Params, pool: Pool, profile: Profile, groups: Mapping[str, Labels]
) -> dict[str, Labels]:
    """Return the positions int64 of each part: in the source's own part, else in its train part."""
    import numpy as np

    from ltcli.data import long_tail

    labels, of = pool.train.labels.numpy(), groups.get("train")
    size, per_class = len(pool.class_names), _val_per_class(params, pool)

    def counts(rows: Labels) -> list[int]:
        found: list[int] = np.bincount(labels[rows], minlength=size).tolist()
        return found

    def cut(rows: Labels, wanted: list[int]) -> tuple[Labels, Labels]:
        own = None if of is None else of[rows]
        held, kept = long_tail.cut(labels[rows], wanted, params.seed, own)
        return held, kept

    val, rest = np.empty(0, np.int64), np.arange(len(labels))
    if pool.test is not None:
        test = np.arange(len(pool.test.labels))
    else:
        # Before any other cut: every profile and factor has the same test set.
        test, rest = cut(rest, long_tail.counts_for_test(counts(rest), params.test_fraction))
    # Held out before the cut, so that validation has equal classes; cao cuts from the long-tailed
    # set.
    if params.protocol == "holdout":
        held, kept = cut(rest, long_tail.counts_for_validation(counts(rest), per_class))
        val, rest = rest[held], rest[kept]
    wanted = long_tail.profile_counts(profile, counts(rest), params.imbalance_factor)
    train = rest[long_tail.cao_indices(labels[rest], wanted, params.seed)]
    if params.protocol == "cao":
        held, kept = cut(train, long_tail.counts_for_validation(wanted, per_class))
        # In the order of the long-tailed set, as the training images are.
        val, train = train[np.sort(held)], train[kept]
    if pool.val is not None:
        val = np.arange(len(pool.val.labels))
    return {"train": train, "val": val, "test": test}


def _tensors(
    pool: Pool, chosen: Mapping[str, Labels], groups: Mapping[str, Labels]
) -> dict[str, torch.Tensor]:
    import torch

    tensors, files, sizes = {}, [], []
    for name, rows in chosen.items():
        source = name if name in pool.parts else "train"  # Cut from train where it has no own.
        part = pool.parts[source]
        index = torch.from_numpy(rows)
        tensors[f"{name}.labels"] = part.labels[index]
        tensors[f"{name}.index"] = index  # Other programs rebuild the split from these positions.
        if source in groups:
            tensors[f"{name}.groups"] = torch.from_numpy(groups[source])[index]
        if pool.store == "files":
            sizes.append(part.data[index])
        else:
            tensors[f"{name}.{pool.store}"] = part.data[index]
        if part.files:
            files += [part.files[row] for row in rows.tolist()]
    if files:
        # A writable buffer: torch warns of tensors over read-only bytes.
        blob = bytearray("\0".join(files).encode())
        tensors["files"] = torch.frombuffer(blob, dtype=torch.uint8)
    if sizes:
        tensors["sizes"] = torch.cat(sizes)
    return tensors


def _say_copies(pool: Pool, chosen: Mapping[str, Labels], context: Context) -> None:
    """Name images that have a copy in another part or class, where all were verified."""
    import numpy as np

    from ltcli.data import duplicates

    if pool.train.looks is None:
        return
    looks, files, parts, labels = [], [], [], []
    for name, rows in chosen.items():
        part = pool.parts.get(name, pool.train)
        if part.looks is not None:
            looks.append(part.looks[rows])
        files += [part.files[row] for row in rows.tolist()]
        parts += [name] * len(rows)
        labels.append(part.labels.numpy()[rows])
    found = duplicates.described(duplicates.joined(looks), files, parts, np.concatenate(labels))
    for kind, pairs in found.items():
        shown = first_few([f"{printable(one)} and {printable(two)}" for one, two in pairs])
        logger.warning("split: %d pairs of images %s: %s", len(pairs), kind, shown)
        context.log({"event": "copies", "kind": kind, "pairs": pairs})
    if not found:
        logger.info("split: no image has a copy in another part or class")


def _group_counts(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return the groups of each part, and warn of those that the source itself has in several."""
    found = {
        part: set(tensors[f"{part}.groups"].tolist())
        for part in PARTS
        if f"{part}.groups" in tensors
    }
    times = Counter(group for groups in found.values() for group in groups)
    if shared := sum(count > 1 for count in times.values()):
        logger.warning("split: the source has images of %d groups in several parts", shared)
    return {part: len(groups) for part, groups in found.items()}


def _pixel_statistics(
    source: str, store: str, tensors: Mapping[str, torch.Tensor]
) -> tuple[list[float], list[float]]:
    """Return mean and std per channel in 0..1: published ones, or measured on training images."""
    import torch

    if store == "features":
        return [], []
    entry = SOURCES[source]
    if entry.mean is not None and entry.std is not None:
        return list(entry.mean), list(entry.std)
    if store == "files":  # Measuring would decode every file.
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    # A histogram of the 256 values is exact, and needs no copy of all images as float.
    flat = tensors["train.images"].reshape(-1, 3)
    histogram = torch.stack([torch.bincount(flat[:, i].long(), minlength=256) for i in range(3)])
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = histogram.double() / len(flat)
    mean = shares @ values
    # Images are divided by std, and a channel of one value has variance 0.
    std = (shares @ values**2 - mean**2).clamp(min=1e-4).sqrt()
    # Four digits, as published statistics have.
    return [round(x, 4) for x in mean.tolist()], [round(x, 4) for x in std.tolist()]


def _warn_of_short_classes(
    names: Sequence[str], val_counts: list[int], wanted: int, test_counts: list[int]
) -> None:
    """Name classes with fewer validation images than asked for, and those without any."""
    # By size: only some are named, and the worst come first.
    if short := sorted((count, c) for c, count in enumerate(val_counts) if count < wanted):
        few = f"{len(short)} of {len(names)} classes are too small for {wanted} validation images"
        given = f"they give {sum(count for count, _ in short)} in all"
        shown = first_few([f"'{names[c]}' {count}" for count, c in short])
        logger.warning("split: %s, %s: %s", few, given, shown)
    if none := lacking(names, test_counts, "test images, their accuracy cannot be measured"):
        logger.warning("split: %s", none)
    # Of a source that has validation images, none are wanted from a cut.
    if (
        wanted == 0
        and any(val_counts)
        and (none := lacking(names, val_counts, "validation images"))
    ):
        logger.warning("split: %s", none)


def show(header: Header) -> list[str]:
    """Return a bar chart of the training images per class, and the sizes of parts and groups."""
    info = header.info
    counts, names = info["class_counts"], list(map(printable, info["class_names"]))
    step = max(1, -(-len(counts) // _MAX_BARS))  # Rounded up: no more bars than fit.
    most = max(counts)
    bars = [
        # At least one mark, or tail classes would look empty.
        [name, f"{count:,}", "#" * max(1, round(40 * count / most))]
        for name, count in zip(names[::step], counts[::step], strict=True)
    ]
    lines = aligned(bars, left=(2,))
    if step > 1:
        lines.append(f"(every {step}th of {len(counts)} classes)")
    groups = {"many": 0, "medium": 0, "few": 0}
    for count in counts:
        groups["many" if count > 100 else "medium" if count >= 20 else "few"] += 1
    sizes = ", ".join(f"{header.size(f'{part}.labels', 0):,} {part}" for part in PARTS)
    noun = "samples" if info["store"] == "features" else "images"
    of_all = info["source_counts"]
    largest = f"{max(of_all) / min(of_all):.4g} times smallest in the data"
    lines.append(f"{sizes} {noun}; largest class {largest}, {most / min(counts):.4g} in train")
    if info["groups"]:
        shown = ", ".join(f"{info['groups'][part]:,} {part}" for part in PARTS)
        lines.append(f"groups: {shown}")
    shown = ", ".join(f"{count} {name}" for name, count in groups.items())
    lines.append(f"classes: {shown} (more than 100, 20 to 100, fewer than 20 training images)")
    return lines


def check(params: Params, _headers: Mapping[str, Any]) -> Checked:
    """Refuse wrong parameters before any image is read; fingerprint the data set."""
    from ltcli.data.long_tail import require_factor

    require_factor(params.imbalance_factor)
    _require_one_grouping(params)
    # Not every source reads these.
    some = (
        *OPTION_PARAMETERS,
        "store",
        "image_size",
        "max_pixels",
        "on_bad_image",
        "partial",
        "verify",
    )
    changed = [name for name in some if getattr(params, name) != getattr(Params, name)]
    require_options(params.source, params.root, [*_given(params, FILE_PARAMETERS), *changed])
    # An ignored factor would look as if it had shaped the classes.
    if _profile(params) == "natural" and params.imbalance_factor != Params.imbalance_factor:
        rule = "imbalance_factor must not be given for profile natural"
        raise ParamError("split", rule, "--profile exp or step gives the classes that ratio")
    if params.root is None:
        return Checked({})
    return Checked(fingerprint(params.source, Path(params.root), _given(params, FILE_PARAMETERS)))


def _require_one_grouping(params: Params) -> None:
    if params.group_by is None:
        return
    if params.group_column is not None:
        raise ParamError("split", "group_by must not be given with group_column", "give one")
    try:
        re.compile(params.group_by)
    except (re.error, RecursionError, OverflowError) as error:
        rule = f"group_by must be a regular expression, got '{clipped(params.group_by)}': {error}"
        raise ParamError("split", rule) from None


STAGE = Stage(
    name="split",
    summary="Cut long-tailed train, validation and test sets.",
    params=Params,
    inputs=(),
    output="split",
    run=run,
    examples=(
        "ltcli split digits --imbalance-factor 20 -d artifacts/digits",
        "ltcli split cifar10 --root data --protocol cao -d artifacts/c10-100",
        "ltcli split folder --root photos --image-size 64 -d artifacts/photos",
        "ltcli split csv --root photos --table photos.csv -d artifacts/photos",
        "ltcli split imagenet-lt --root imagenet -d artifacts/imagenet-lt",
        "ltcli split embeddings --root features.npz -d artifacts/features",
    ),
    check=check,
    show=show,
)
