"""From what is known of a folder of runs to the text of its page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ltcli import __version__
from ltcli.cli.report import figures, provenance
from ltcli.cli.report.files import File
from ltcli.cli.report.markup import Markup, element, table
from ltcli.cli.report.models import Model
from ltcli.cli.report.style import STYLE
from ltcli.core.text import plural

# By this a report is known as one of ours.
MARK = "<!DOCTYPE html>\n<!-- made by ltcli report -->\n"
# Style sheets and nothing else: a page of other people's names runs no script.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Facts:
    """What a report shows.

    Attributes:
        folder: Its name.
        names: Of the classes.
        test_counts: Test images of the classes.
        bounds: Training images between few and medium, and between medium and many.
        heads: Of the comparison.
        leagues: Name and cells of each league of the comparison; no name where there is but one.
        notes: Of the comparison.
        models: Its rows, with what the figures show.
        files: Artifacts, each after what it was made from.
    """

    folder: str
    names: Sequence[str]
    test_counts: Sequence[int]
    bounds: tuple[float, float]
    heads: Sequence[str]
    leagues: Sequence[tuple[str, Sequence[Sequence[str]]]]
    notes: Sequence[str]
    models: Sequence[Model]
    files: Sequence[File]

    @property
    def counts(self) -> Sequence[int]:
        """Training images of the classes, those of the first row."""
        return self.models[0].counts

    @property
    def whose(self) -> str:
        """Whose counts these are; nothing where they are those of all rows."""
        same = all(model.counts == self.counts for model in self.models)
        return "" if same else f" of {self.models[0].row.name}"

    @property
    def order(self) -> list[int]:
        """Classes, the largest of the first row first."""
        return sorted(range(len(self.names)), key=lambda c: (-self.counts[c], c))


def page(facts: Facts) -> str:
    """Return a whole page; the same facts give the same text."""
    sections = [
        ("comparison", "Comparison", _comparison(facts)),
        ("classes", "Accuracy by class size", _classes(facts)),
        ("reliability", "Reliability", _reliability(facts)),
        ("confusion", "Confusion", _confusion(facts)),
        ("curves", "Learning curves", provenance.curves(facts.files)),
        ("lineage", "Lineage", provenance.lineage(facts.files)),
        ("environment", "Environment", provenance.environment(facts.files)),
    ]
    title = f"ltcli report: {facts.folder}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    links = [element("a", name, href=f"#{key}") for key, name, _ in sections]
    body = element(
        "body",
        element("header", element("h1", title), element("p", _summary(facts))),
        element("nav", *links, aria_label="Sections"),
        element("main", *(_section(key, name, parts) for key, name, parts in sections)),
        element("footer", element("p", f"Made by ltcli {__version__}.")),
    )
    return f"{MARK}{element('html', head, body, lang='en').text}\n"


def _section(key: str, name: str, parts: Sequence[Markup]) -> Markup:
    return element("section", element("h2", name, id=key), *parts)


def _summary(facts: Facts) -> str:
    runs = sum(model.row.runs for model in facts.models)
    most, least = max(facts.counts), min(facts.counts)
    return (
        f"{plural(len(facts.models), 'classifier')} in {plural(runs, 'run')}."
        f" {len(facts.names):,} classes with"
        f" {sum(facts.counts):,} training images{facts.whose}, {most:,} in the largest and"
        f" {least:,} in the smallest class; {sum(facts.test_counts):,} test images."
    )


def _comparison(facts: Facts) -> list[Markup]:
    about = (
        "Scores on the same test images; runs that differ in their seed alone share a row, and"
        " differences are to the first row, image by image."
    )
    text = f"Accuracy (dot) with its interval (bar); the dashed line is {facts.models[0].row.name}."
    rows = [model.row for model in facts.models]
    tables = []
    for league, lines in facts.leagues:
        if league:
            tables.append(element("h3", league))
        tables.append(table(f"Comparison {league}".strip(), facts.heads, lines))
    return [
        element("p", about),
        *tables,
        *(element("p", note) for note in facts.notes),
        element("p", text),
        element("figure", figures.intervals(rows)),
    ]


def _panels(models: Sequence[Model], draw: Callable[[Model], Markup]) -> Markup:
    """Return one figure a model."""
    parts = [
        element("figure", element("figcaption", model.row.name), draw(model)) for model in models
    ]
    return element("div", *parts, class_="panels")


def _classes(facts: Facts) -> list[Markup]:
    first = facts.models[0]
    text = (
        "Accuracy on the test images of each class (points) against the number of its training"
        " images, on a logarithmic scale; the line is the mean over classes of one or similar"
        f" size, the dashed line that of {first.row.name}, dotted lines bound few, medium and many."
    )

    def draw(model: Model) -> Markup:
        label = f"Accuracy of {model.row.name} by training images of the class"
        reference = figures.means(first.accuracies, first.counts)
        known = model.accuracies, model.counts, reference
        return figures.by_class_size(*known, facts.names, facts.bounds, label)

    parts = [element("p", text), _panels(facts.models, draw)]
    if len(facts.names) <= figures.NAMED:
        counted = f"training images{facts.whose}"
        heads = ["class", counted, "test images", *(m.row.name for m in facts.models)]
        lines = [
            [
                facts.names[c],
                f"{facts.counts[c]:,}",
                f"{facts.test_counts[c]:,}",
                *(_percent(model.accuracies[c]) for model in facts.models),
            ]
            for c in facts.order
        ]
        numbers = table("Accuracy of each class", heads, lines)
        parts.append(
            element(
                "details", element("summary", "The same in numbers (%, mean over runs)"), numbers
            )
        )
    return parts


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _reliability(facts: Facts) -> list[Markup]:
    text = (
        "Share of right predictions (points) against the confidence that they were made with, in"
        " 15 bins, all runs of a row together: below the dashed diagonal a model is too sure of"
        " itself. Grey bars are the shares of the images. ECE is the distance to the diagonal, mean"
        " over the images, of each run by itself; its mean over the runs is printed."
    )

    def draw(model: Model) -> Markup:
        return figures.reliability(model.bins, f"Reliability of {model.row.name}")

    parts = [
        element(
            "figure",
            element(
                "figcaption",
                model.row.name,
                element("span", f" ECE {100 * model.row.ece:.2f} %", class_="soft"),
            ),
            draw(model),
        )
        for model in facts.models
    ]
    return [element("p", text), element("div", *parts, class_="panels")]


def _confusion(facts: Facts) -> list[Markup]:
    if facts.models[0].matrix is None:
        text = (
            "The pairs of classes that are confused most often: test images of one class that were"
            " taken for the other, mean over runs."
        )
        return [element("p", text), _panels(facts.models, lambda model: _pairs(facts, model))]
    text = (
        "Of the test images of each row's class, how many % were taken for each column's class,"
        " mean over runs; the stronger the colour, the more. The class with most training images"
        f"{facts.whose} comes first."
    )
    names = [facts.names[c] for c in facts.order]

    def draw(model: Model) -> Markup:
        whole = model.matrix or []
        matrix = [[whole[i][j] for j in facts.order] for i in facts.order]
        return figures.confusion(matrix, names, f"Confusion of {model.row.name}")

    return [element("p", text), _panels(facts.models, draw)]


def _pairs(facts: Facts, model: Model) -> Markup:
    lines = [
        [
            f"{facts.names[pair.true]} ({model.counts[pair.true]:,})",
            facts.names[pair.predicted],
            f"{pair.images:.1f}",
            f"{100 * pair.share:.1f}",
        ]
        for pair in model.pairs or []
    ]
    heads = ["class (training images)", "taken for", "images", "% of its images"]
    return table(f"Most confused pairs of {model.row.name}", heads, lines, texts=(1,))
