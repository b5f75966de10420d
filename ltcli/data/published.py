"""Accuracies that papers, or their released code, print for long-tailed CIFAR: ``published.csv``.

Every line names its paper and table, or the document of the code. The accuracy is in per cent, 100
minus the error where errors are printed. largest_class and epochs are empty where they are not
known, as for rows that a paper quotes from another one. Errata: in RISDA's table 5, the row without
re-weighting stands among errors and is an accuracy; STG's tables quote BBN higher than BBN prints;
its MetaSAug is the variant with LDAM. RIDE's figure is with its router, which ltcli does not have;
MAMix, DiVE and BALMS's sampler are left out, as ltcli cannot run them.
"""

from dataclasses import dataclass
from pathlib import Path

from ltcli.core.errors import DataError
from ltcli.core.files import read_table

PATH = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Published:
    """One figure of a paper or of its code, on an exponential profile.

    Attributes:
        dataset: Name in ``ltcli split``.
        backbone: Name in ``ltcli pretrain``.
        method: Name in the source.
        accuracy: Accuracy on the test images, 0..1.
        source: Paper and table, or document of its code.
        largest_class: Training images of the largest class; None if not known.
        epochs: Epochs of the backbone; None if not known.
        note: Difference between its protocol and the one of ltcli.
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
    _, *lines = (cells for _, cells in read_table(PATH, DataError))
    return [
        Published(
            dataset,
            int(factor),
            backbone,
            method,
            # Exact to the printed digits: a percentage over 100 has a tail of rounding errors.
            round(float(accuracy) / 100, 6),
            source,
            int(largest) if largest else None,
            int(epochs) if epochs else None,
            note,
        )
        for dataset, factor, backbone, method, accuracy, source, largest, epochs, note in lines
    ]
