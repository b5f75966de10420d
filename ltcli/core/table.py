"""Tables of text for a terminal, in aligned columns."""

from collections.abc import Collection, Sequence

from ltcli.core.text import printable


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    indent: int = 0,
    gap: int = 2,
    width: int | None = None,
) -> list[str]:
    """Return one line of text for each row, its cells padded to columns.

    Args:
        rows: Cells, as many in each row; what a terminal obeys is escaped.
        left: Columns that align to the left, as text does; numbers align to the right.
        indent: Blanks before each line.
        gap: Blanks between two columns.
        width: Length of the longest line, to which the last column is wrapped; None to wrap none.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, gap))
    last = len(rows[0]) - 1
    for column in range(last + 1):
        is_whole = column < last or width is None
        table.add_column(justify="left" if column in left else "right", no_wrap=is_whole)
    for row in rows:
        # Text, as names of classes and files may look like rich's markup.
        table.add_row(*map(Text, map(printable, row)))
    # Wide enough for any table: the terminal wraps long lines, and a file keeps them whole.
    console = Console(width=width - indent if width else 10_000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [(" " * indent + line).rstrip() for line in capture.get().splitlines()]
