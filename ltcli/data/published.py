"""Accuracies that papers, or their released code, print for long-tailed CIFAR: ``published.csv``.

Every line has the paper and table, or the document of the code, that it stands in. The accuracy is
in per cent, 100 minus the error where errors are printed. largest_class and epochs are empty where
they are not known, as for rows that a paper quotes from another one. Errata: of RISDA's table 5,
the row without re-weighting stands among errors and is an accuracy; STG's tables quote BBN higher
than BBN prints; its MetaSAug is the variant with LDAM. RIDE's figure is with its router, which
ltcli does not have; what else ltcli cannot run is left out, as MAMix, DiVE and BALMS's sampler.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Published:
    """One figure of a paper or of its code.

    Attributes:
        dataset: As in ``ltcli split``; the classes fall exponentially.
        imbalance_factor: Largest over smallest class.
        backbone: As in ``ltcli pretrain``.
        method: As the source calls it.
        accuracy: 0..1, on the test images.
        source: Paper and table, or document of its code.
        largest_class: Training images of the largest class; None if not known.
        epochs: Of the backbone; None if not known.
        note: How its protocol differs from the one of ltcli.
    """

    dataset: str
    imbalance_factor: int
    backbone: str
    method: str
    accuracy: float
    source: str
    largest_class: int | None
    epochs: int | None
    note: str


def read_published() -> list[Published]:
    """Return every figure that comes with the package, in the order of the papers' tables."""
    with PATH.open(newline="", encoding="utf-8") as file:
        return [
            Published(
                line["dataset"],
                int(line["imbalance_factor"]),
                line["backbone"],
                line["method"],
                round(float(line["accuracy"]) / 100, 6),
                line["source"],
                int(line["largest_class"]) if line["largest_class"] else None,
                int(line["epochs"]) if line["epochs"] else None,
                line["note"],
            )
            for line in csv.DictReader(file)
        ]
