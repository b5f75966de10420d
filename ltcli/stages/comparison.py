"""From evaluated models to the rows of a comparison, and to the papers' figures beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.artifacts.header import Header
from ltcli.core.errors import ArtifactError
from ltcli.data.published import Published, read_published
from ltcli.stages.league import League, read_provenance

if TYPE_CHECKING:
    from ltcli.stats.comparison import Row, Run, Score


@dataclass(frozen=True)
class Placed:
    """A row and where it stands.

    Attributes:
        row: The scores.
        league: Of its runs.
        like_for_like: Whether that is the league of the first row.
    """

    row: Row
    league: League
    like_for_like: bool


def check_same_images(headers: Sequence[Header]) -> None:
    """Check that files are predictions on the same images, and that they say how they were made.

    Raises:
        ArtifactError: One is not, or does not, or two are of one model: they are no two runs.
    """
    models: dict[str, Header] = {}
    for header in headers:
        if header.kind != "predictions":
            rule = f"must be of kind predictions, got {header.kind}"
            raise ArtifactError(header.path, rule, "run ltcli evaluate on it first")
        for fact in ("on", "class_names", "images"):
            if header.info.get(fact) != headers[0].info.get(fact):
                rule = f"was made on other images or classes than {headers[0].path}"
                raise ArtifactError(header.path, rule, "compare predictions of one test set")
        read_provenance(header)
        first = models.setdefault(header.info["model"], header)
        if first is not header:
            rule = f"was made by the same model as {first.path}"
            raise ArtifactError(header.path, rule, "leave one of them out: copies are no runs")


def compare_files(
    headers: Sequence[Header],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    many_above: int = 100,
    few_below: int = 20,
    seed: int = 0,
    score: Score = "accuracy",
) -> list[Placed]:
    """Compare predictions on the same images; see ``ltcli.stats.comparison.compare``."""
    from ltcli.stats.comparison import compare

    rows = compare(
        read_runs(headers),
        level=level,
        resamples=resamples,
        many_above=many_above,
        few_below=few_below,
        seed=seed,
        score=score,
    )
    return place(headers, rows)


def read_runs(headers: Sequence[Header]) -> list[Run]:
    """Load predictions, those of equal recipes under one name.

    Raises:
        ArtifactError: They hold different labels.
    """
    import torch

    runs = [_load(header, name) for header, name in zip(headers, _names(headers), strict=True)]
    if any(not torch.equal(run.labels, runs[0].labels) for run in runs):
        raise ArtifactError("compare", "the files hold different labels", "evaluate them again")
    return runs


def place(headers: Sequence[Header], rows: Sequence[Row]) -> list[Placed]:
    """Return rows with their leagues, one league after the other, the first row's first.

    Raises:
        ArtifactError: The metadata of a file is not what ``evaluate`` writes.
    """
    leagues: dict[str, League] = {}
    for header, name in zip(headers, _names(headers), strict=True):
        leagues.setdefault(name, read_provenance(header)[0])
    order = list(dict.fromkeys(leagues.values()))
    together = sorted(rows, key=lambda row: order.index(leagues[row.name]))
    return [Placed(row, leagues[row.name], leagues[row.name] == order[0]) for row in together]


def _load(header: Header, name: str) -> Run:
    import torch

    from ltcli.artifacts.store import open_artifact
    from ltcli.stats.comparison import Run

    with open_artifact(header.path) as artifact:
        tensors = artifact.load("logits", "labels")
        kept = "snapshots.predicted" in header.tensors
        snapshots = artifact.tensor("snapshots.predicted") if kept else None
    counts = torch.tensor(header.info["class_counts"])
    return Run(name, tensors["logits"], tensors["labels"], counts, snapshots)


def _names(headers: Sequence[Header]) -> list[str]:
    """Return the row of each file: equal for runs that differ in their seeds alone.

    A row is named after the file of its first run, without ``evaluate-`` and suffix if these tell
    no two rows apart, and with as many of its folders as it takes to tell it from others.
    """
    keys = [header.info["recipe"] for header in headers]
    firsts = [headers[keys.index(key)].path.absolute() for key in keys]
    places = [(*path.parts[1:-1], path.stem.removeprefix("evaluate-")) for path in firsts]
    if len(set(places)) < len(set(firsts)):
        places = [path.parts[1:] for path in firsts]
    depth = 1
    while len({place[-depth:] for place in places}) < len(set(firsts)):
        depth += 1
    return ["/".join(place[-depth:]) for place in places]


def published_beside(headers: Sequence[Header]) -> list[Published]:
    """Return the papers' figures for the data set, imbalance factor and backbone of some files.

    They are of the test images that the data set comes with. Their notes also say where largest
    class, epochs and pre-training are other than in all of these files.
    """
    ours: dict[tuple[str, int, str], list[Header]] = {}
    for header in headers:
        _, benchmark = read_provenance(header)
        if benchmark.profile == "exp":
            key = (benchmark.dataset, round(benchmark.imbalance_factor), benchmark.backbone)
            if key[1] == benchmark.imbalance_factor:
                ours.setdefault(key, []).append(header)
    found = []
    for row in read_published():
        beside = ours.get((row.dataset, row.imbalance_factor, row.backbone), [])
        if beside:
            notes = [row.note, *_other(row, beside)]
            found.append(dataclasses.replace(row, note="; ".join(notes)))
    return found


def _other(row: Published, headers: Sequence[Header]) -> list[str]:
    largest = sorted({max(header.info["class_counts"], default=0) for header in headers})
    leagues = [read_provenance(header)[0] for header in headers]
    epochs = sorted({league.epochs for league in leagues})
    notes = []
    if row.largest_class is not None and row.largest_class not in largest:
        ours = " or ".join(f"{count:,}" for count in largest)
        notes.append(f"largest class {row.largest_class:,}, here {ours}")
    if row.epochs is not None and row.epochs not in epochs:
        notes.append(f"{row.epochs} epochs, here {' or '.join(map(str, epochs))}")
    if all(league.pretraining != "none" for league in leagues):
        notes.append("from scratch, here pre-trained elsewhere")
    return notes
