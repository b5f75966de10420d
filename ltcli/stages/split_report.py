"""What ``split`` says: a chart of the class sizes, and which classes came off badly."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltcli.data.source_table import PARTS

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header

logger = logging.getLogger(__name__)

# More classes than this are thinned out in the chart, or not named in a warning.
MAX_BARS = 25
MAX_NAMED = 5


def warn_of_short_classes(
    names: Sequence[str], val_counts: list[int], wanted: int, test_counts: list[int]
) -> None:
    """Say which classes give fewer validation images than asked for, and which have no test images.

    Args:
        names: Of the classes.
        val_counts: Validation images of each class.
        wanted: Validation images per class that were asked for.
        test_counts: Test images of each class.
    """
    short = [(count, c) for c, count in enumerate(val_counts) if count < wanted]
    if short:
        some = [f"'{names[c]}' {count}" for count, c in sorted(short)[:MAX_NAMED]]
        logger.warning(
            "split: %d of %d classes are too small for %d validation images, they give %d in all:"
            " %s",
            len(short),
            len(names),
            wanted,
            sum(count for count, _ in short),
            _some(some, len(short)),
        )
    untested = [f"'{names[c]}'" for c, count in enumerate(test_counts) if count == 0]
    if untested:
        logger.warning(
            "split: %d of %d classes have no test images, their accuracy cannot be measured: %s",
            len(untested),
            len(names),
            _some(untested[:MAX_NAMED], len(untested)),
        )


def _some(shown: list[str], number: int) -> str:
    more = f" and {number - len(shown)} more" if number > len(shown) else ""
    return ", ".join(shown) + more


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
    sizes = [f"{header.size(f'{p}.labels', 0):,} {p}" for p in PARTS]
    what = "samples" if info["store"] == "features" else "images"
    lines.append(
        f"{', '.join(sizes)} {what}; largest class {most / min(counts):.4g} times smallest"
    )
    shown = ", ".join(f"{count} {name}" for name, count in groups.items())
    lines.append(f"classes: {shown} (more than 100, 20 to 100, fewer than 20 training images)")
    return lines
