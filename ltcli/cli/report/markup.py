"""Elements of a page. Text is escaped where it enters one, so that no name can become markup."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_WITHOUT_END = ("meta",)


@dataclass(frozen=True)
class Markup:
    """What is markup already, other than text."""

    text: str


def element(name: str, /, *children: Markup | str, **attributes: str | float | None) -> Markup:
    """Return an element.

    Args:
        name: Of the element.
        children: Markup as it is, text escaped.
        attributes: A trailing underscore is dropped, others become dashes; None leaves it out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = _safe(value) if isinstance(value, str) else number(value)
            words.append(f'{key.rstrip("_").replace("_", "-")}="{shown}"')
    start = f"<{' '.join(words)}>"
    if name in _WITHOUT_END:
        return Markup(start)
    return Markup(f"{start}{joined(children).text}</{name}>")


def joined(children: Iterable[Markup | str]) -> Markup:
    """Return children as one piece of markup."""
    parts = [child.text if isinstance(child, Markup) else _safe(child) for child in children]
    return Markup("".join(parts))


def _safe(text: str) -> str:
    # Control characters, marks that turn the direction of writing, and halves of surrogates would
    # disturb the page or the file. Line breaks mean nothing in a page.
    seen = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return escape(seen, quote=True)


def number(value: float) -> str:
    """Return a number for a drawing, to a hundredth."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def table(
    label: str,
    heads: Sequence[str],
    lines: Sequence[Sequence[Markup | str]],
    *,
    texts: Sequence[int] = (),
) -> Markup:
    """Return a table that scrolls within a narrow window; the first cell of a line names it.

    Args:
        label: What it is called where it cannot be seen.
        heads: Of the columns.
        lines: Cells.
        texts: Columns of text; the others hold numbers, which stand on the right.
    """
    kinds = ["words" if i in (0, *texts) else None for i in range(len(heads))]
    head = [
        element("th", title, scope="col", class_=kind)
        for title, kind in zip(heads, kinds, strict=True)
    ]
    body = []
    for first, *rest in lines:
        cells = [element("th", first, scope="row", class_="words")]
        cells += [
            element("td", cell, class_=kind) for cell, kind in zip(rest, kinds[1:], strict=True)
        ]
        body.append(element("tr", *cells))
    parts = element("thead", element("tr", *head)), element("tbody", *body)
    # Whoever has no mouse can scroll what can be focused.
    return element("div", element("table", *parts, aria_label=label), class_="wide", tabindex="0")
