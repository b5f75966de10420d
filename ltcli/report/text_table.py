"""Tables for a terminal or a pipe: aligned columns without a frame."""

from collections.abc import Collection, Sequence
from typing import Literal


def text_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    width: int | None = None,
    gap: int = 2,
) -> list[str]:
    """Return the lines of a table, the heads first.

    Args:
        heads: Names of the columns; none for a table without a first line.
        rows: Cells as they are shown.
        right: Positions of the columns whose cells end at one place, as numbers do.
        width: Columns of the screen, to which the last column is wrapped; None for one line a row.
        gap: Spaces between two columns.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    justify: Literal["left", "right"]
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_header=bool(heads))
    last = len(rows[0]) - 1
    for i in range(last + 1):
        is_wrapped = i == last and width is not None
        justify = "right" if i in right else "left"
        table.add_column(Text(heads[i]) if heads else "", justify=justify, no_wrap=not is_wrapped)
    for row in rows:
        # Text, not str: names of classes and files may look like rich's markup.
        table.add_row(*map(Text, row))
    # What is written is captured, so that standard output has one writer, which knows of pipes.
    console = Console(width=width or 10_000, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]
