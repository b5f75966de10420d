"""The sections of a report that come from artifacts' headers and sidecars alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ltcli.cli.report import figures
from ltcli.cli.report.drawing import key
from ltcli.cli.report.files import File
from ltcli.cli.report.markup import Markup, element, joined, table
from ltcli.cli.report.sidecars import Sidecar
from ltcli.stages.stage import OUTSIDE

_DIGITS = 12
_ENVIRONMENT = (
    "file",
    "started (UTC)",
    "seconds",
    "resumed",
    "device",
    "precision",
    "memory MB",
    "machine",
)
_Run = tuple[str, Sidecar]


def curves(files: Sequence[File]) -> list[Markup]:
    """Return a figure for each recipe that was trained, and the names of what has no curve."""
    text = (
        "Loss (mean over the samples drawn), what else the method reports, and learning rate, after"
        " each epoch, by the log beside each file; runs that differ in their seed alone share a"
        " figure."
    )
    groups: dict[str, list[_Run]] = {}
    left_out: dict[str, list[str]] = {}
    for file in files:
        name, run = file.header.path.stem, file.run
        if file.header.kind not in ("model", "generator"):
            continue
        if isinstance(run, str):
            left_out.setdefault(run, []).append(name)
        elif not run.epochs:
            left_out.setdefault("no epochs", []).append(name)
        else:
            groups.setdefault(_recipe(file), []).append((name, run))
    parts = [element("p", text)]
    if groups:
        panels = [_curve(runs) for runs in groups.values()]
        parts.append(element("div", *panels, class_="panels"))
    for reason, names in left_out.items():
        parts.append(element("p", f"Left out ({reason}): {', '.join(names)}."))
    return parts


def _recipe(file: File) -> str:
    """Return what runs that differ in their seed alone have in common."""
    header = file.header
    parameters = {name: value for name, value in header.parameters.items() if name != "seed"}
    return json.dumps([header.stage, header.info.get("recipe", parameters)], sort_keys=True)


def _curve(runs: Sequence[_Run]) -> Markup:
    names = [name for name, _ in runs]
    title: Markup | str = names[0]
    if len(names) > 1:
        each = [
            element("span", key(i % figures.LINES), name, class_="key")
            for i, name in enumerate(names)
        ]
        title = joined(each)
    drawn = figures.curves(
        [(name, run.epochs) for name, run in runs], f"Learning curves of {', '.join(names)}"
    )
    return element("figure", element("figcaption", title), drawn)


def lineage(files: Sequence[File]) -> list[Markup]:
    """Return the table of which file was made from which."""
    text = (
        f"Every file with the first {_DIGITS} digits of its SHA-256, verified, what it was made"
        " from, and its parameters but those that are null; each stands below what it was made"
        " from."
    )
    lines: list[list[Markup | str]] = [
        [
            file.header.path.stem,
            file.header.stage,
            _digest(file.header.digest),
            _origins(file),
            _parameters(file.header.parameters),
        ]
        for file in files
    ]
    heads = ["file", "stage", "digest", "made from", "parameters"]
    return [element("p", text), table("Lineage", heads, lines, texts=(1, 2, 3, 4))]


def _digest(digest: str) -> Markup:
    return element("code", digest[:_DIGITS])


def _origins(file: File) -> Markup:
    each = []
    for role, name, digest in file.made_from:
        if name is not None:
            each.append(element("div", f"{role}: {name}"))
        else:
            where = "outside" if role in OUTSIDE else "not in this folder"
            each.append(element("div", f"{role}: {where}, ", _digest(digest)))
    return joined(each)


def _parameters(values: Mapping[str, Any]) -> Markup:
    shown = []
    for name, value in values.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            shown.append(f"{name} {text}")
    what = element("div", ", ".join(shown), class_="long")
    return element("details", element("summary", f"{len(shown)} in all"), what)


def environment(files: Sequence[File]) -> list[Markup]:
    """Return the table of times and devices, and the machines with their versions."""
    runs = [(file.header.path.stem, file.run) for file in files if isinstance(file.run, Sidecar)]
    machines = list(dict.fromkeys(run.machine for _, run in runs))
    parts = [
        element("p", f"Machine {i + 1}: {machine or 'not told'}.")
        for i, machine in enumerate(machines)
    ]
    text = (
        "When and on what each file was made, by the log beside it: the device that was used, or"
        " asked for where the log does not say; of a run that was resumed, seconds and memory are"
        " those of its last part."
    )
    lines = [
        [
            name,
            run.started,
            _plain(run.seconds, 1),
            str(run.resumed or ""),
            run.device,
            run.precision,
            _plain(run.peak_memory_mb, 0),
            str(machines.index(run.machine) + 1),
        ]
        for name, run in runs
    ]
    if lines:
        parts.append(element("p", text))
        parts.append(table("Times and devices", _ENVIRONMENT, lines, texts=(4, 5)))
    without = [
        f"{file.header.path.stem} ({file.run})" for file in files if isinstance(file.run, str)
    ]
    if without:
        parts.append(element("p", f"Not known: {', '.join(without)}."))
    return parts


def _plain(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
