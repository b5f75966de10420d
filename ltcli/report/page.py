"""The page of ``report``: from the predictions of a folder to one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ltcli import __version__
from ltcli.artifacts.header import Header
from ltcli.artifacts.store import locked, save_bytes
from ltcli.core.errors import ArtifactError, cause
from ltcli.core.text import plural, printable
from ltcli.report import charts, comparison_table
from ltcli.report.inputs import Groups
from ltcli.report.models import measure, test_counts
from ltcli.report.provenance import lineage, trained
from ltcli.stages.comparison import place, read_runs
from ltcli.stages.stage import OUTSIDE
from ltcli.stats.comparison import compare

# A file that starts with this is a report, and may be replaced by another one.
MARK = "<!DOCTYPE html>\n<!-- made by ltcli report -->\n"
_LEVEL = 0.95


def page(folder: Path, found: Sequence[Header], headers: Sequence[Header], groups: Groups) -> str:
    """Page of a folder; the same artifacts give the same text.

    ``found`` are the predictions to compare, the first row first, among all ``headers`` of it.
    """
    runs = read_runs(found)
    rows = compare(runs, level=_LEVEL, many_above=groups.many_above, few_below=groups.few_below)
    placed = place(found, rows)
    models, files = [measure(one.row, runs) for one in placed], lineage(found, headers)
    names, counts = found[0].info["class_names"], models[0].counts
    order = sorted(range(len(names)), key=lambda c: (-counts[c], c))
    heads, lines = comparison_table.table(placed, _LEVEL)
    images = comparison_table.images_of(found[0], runs[0].outcomes.labels)
    curves, without_curves = trained(files)
    # Where rows were trained on other splits, the counts are those of the first row.
    whose = f" of {models[0].row.name}" if any(m.counts != counts for m in models) else ""
    return MARK + _template().render(
        title=f"ltcli report: {folder.resolve().name}",
        names=names,
        counts=counts,
        whose=whose,
        order=order,
        ordered_names=[names[c] for c in order],
        test_counts=test_counts(runs[0]),
        # Halves, since both bounds belong to medium.
        bounds=(groups.few_below - 0.5, groups.many_above + 0.5),
        heads=heads,
        leagues=comparison_table.by_league(placed, lines),
        notes=comparison_table.footer(placed, _LEVEL, images),
        models=models,
        curves=curves,
        without_curves=without_curves,
        files=files,
    )


def _template() -> Template:
    env = Environment(
        loader=PackageLoader("ltcli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Control characters, marks that turn the direction of writing, and halves of surrogates
        # would disturb the page or the file.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    env.filters |= {"number": _number, "plural": plural}
    env.globals |= {"charts": charts, "OUTSIDE": OUTSIDE, "version": __version__}
    return env.get_template("report.html.j2")


def _number(value: float | None, digits: int = 0) -> str:
    if value is None:
        return ""
    # NaN, the only value that is not itself, stands for classes without images.
    return "-" if value != value else f"{value:,.{digits}f}"


def write_page(target: Path, text: str, force: bool) -> None:
    """Write a page unless the file is no report."""
    with locked(target):
        # Another process may have written the file since the first look.
        check_ours(target, force)
        save_bytes(target, text.encode())


def check_ours(target: Path, force: bool) -> None:
    """Refuse to replace a file that does not start with ``MARK``."""
    if force or not target.exists():
        return
    try:
        with target.open("rb") as file:
            ours = file.read(len(MARK)) == MARK.encode()
    except OSError as error:
        raise ArtifactError(target, f"cannot be read: {cause(error)}") from None
    if not ours:
        hint = "--force replaces it, --out writes elsewhere"
        raise ArtifactError(target, "was not made by ltcli report", hint)
