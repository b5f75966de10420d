"""Rows of a comparison from evaluated models, and published figures to set beside them."""

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
    from ltcli.stats.comparison import Row, Run


@dataclass(frozen=True)
class Placed:
    """Scores of a row, the league of its runs, and whether the first row has the same league."""

    row: Row
    league: League
    like_for_like: bool


def check_same_images(headers: Sequence[Header]) -> None:
    """Refuse files that are not predictions of different models on the same images."""
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
        # A copy would count as a second run, and halve the variance of its row.
        first = models.setdefault(header.info["model"], header)
        if first is not header:
            rule = f"was made by the same model as {first.path}"
            raise ArtifactError(header.path, rule, "leave one of them out: copies are no runs")


def read_runs(headers: Sequence[Header]) -> list[Run]:
    """Outcomes of the predictions in files; runs of one recipe have one name."""
    import torch

    from ltcli.artifacts.store import open_artifact
    from ltcli.stats.accuracy import outcomes
    from ltcli.stats.comparison import Run

    runs: list[Run] = []
    for header, name in zip(headers, _names(headers), strict=True):
        with open_artifact(header.path) as artifact:
            # The logits are read once, row by row: those of many models would fill the memory.
            found = outcomes(artifact.rows("logits"), artifact.tensor("labels"))
            kept = "snapshots.predicted" in header.tensors
            snapshots = artifact.tensor("snapshots.predicted") if kept else None
        counts = torch.tensor(header.info["class_counts"])
        runs.append(Run(name, found, counts, snapshots))
        # Bootstrap and differences pair the predictions image by image.
        if not torch.equal(found.labels, runs[0].outcomes.labels):
            raise ArtifactError("compare", "the files have different labels", "evaluate them again")
    return runs


def place(headers: Sequence[Header], rows: Sequence[Row]) -> list[Placed]:
    """Rows with their leagues, one league after the other, that of the first row first."""
    leagues: dict[str, League] = {}
    for header, name in zip(headers, _names(headers), strict=True):
        leagues.setdefault(name, read_provenance(header)[0])
    order = list(dict.fromkeys(leagues.values()))
    # sorted is stable: within a league the rows keep their order.
    together = sorted(rows, key=lambda row: order.index(leagues[row.name]))
    return [Placed(row, leagues[row.name], leagues[row.name] == order[0]) for row in together]


def _names(headers: Sequence[Header]) -> list[str]:
    """Row name of each file, equal for runs that differ only in their seeds.

    A row is named after the file of its first run, without ``evaluate-`` and suffix unless two rows
    then share a name, and with as many folders as distinguish all rows.
    """
    keys = [header.info["recipe"] for header in headers]
    firsts = [headers[keys.index(key)].path.absolute() for key in keys]
    # The folders of a path without its root, so that its parts can be joined from any depth.
    paths = [(*path.parts[1:-1], path.stem.removeprefix("evaluate-")) for path in firsts]
    if len(set(paths)) < len(set(firsts)):
        paths = [path.parts[1:] for path in firsts]
    depth = 1
    while len({path[-depth:] for path in paths}) < len(set(firsts)):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]


def published_beside(headers: Sequence[Header]) -> list[Published]:
    """Published figures for the data set, imbalance factor and backbone of some files.

    They hold for the test images of the data set. Notes name a largest class, a number of epochs
    and a pre-training that differ from all of these files.
    """
    ours: dict[tuple[str, int, str], list[Header]] = {}
    for header in headers:
        _, benchmark = read_provenance(header)
        # Papers use the exponential profile and whole imbalance factors.
        if benchmark.profile == "exp":
            key = (benchmark.dataset, round(benchmark.imbalance_factor), benchmark.backbone)
            # round(99.6) is not the setting of a paper with factor 100.
            if key[1] == benchmark.imbalance_factor:
                ours.setdefault(key, []).append(header)
    found = []
    for row in read_published():
        beside = ours.get((row.dataset, row.imbalance_factor, row.backbone), [])
        if beside:
            notes = [row.note, *_differences(row, beside)]
            found.append(dataclasses.replace(row, note="; ".join(notes)))
    return found


def _differences(row: Published, headers: Sequence[Header]) -> list[str]:
    """Facts of a published figure that none of some files shares, in words."""
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
