"""The kinds of artifact: exactly which tensors and which metadata each one holds.

Axis letters: N training images, V validation images, T test images, M predicted images, H W image,
C classes, D feature dimension, Q augmented views, Y X feature map, R rows of covariance factors,
O = C + 1 offsets, K neighbours, E epochs, P bytes, F files, U tail classes, J sampled tail
classes, L leading directions, S sampled features, G features with a divergence, I pictures. A
letter is one size within a file.

The table says of every number and every text that a stage reads what it may be. Headers are checked
when they are read, tensors when they are loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ltcli.artifacts.backbone import BACKBONE, SIDES
from ltcli.artifacts.rules import (
    FLAG,
    MAPPING,
    TEXT,
    Record,
    Rule,
    count,
    listed,
    nullable,
    number,
    one_of,
    optional,
)

Info = Mapping[str, Rule | Record]
"""Rule of each key of the metadata."""


@dataclass(frozen=True)
class Values:
    """Range of the numbers of a tensor.

    Attributes:
        least: Smallest number; None for any.
        most: Largest number; None for any.
        below: Axis whose size is above every number: they are positions along it.
        rising: Whether each number is above the one before it.
        spans: Axis that the numbers cut into pieces: they rise from 0 to its size.
        counted: Key of ``info`` that says how often each position of ``below`` occurs.
        diagonal: Whether the rule is for the diagonals of matrices alone.
        rows: Axes whose sizes add up to that of the tensor, or to the number of its paths.
        paths: Whether the bytes are relative paths, joined by NUL.
    """

    least: float | None = None
    most: float | None = None
    below: str = ""
    rising: bool = False
    spans: str = ""
    counted: str = ""
    diagonal: bool = False
    rows: str = ""
    paths: bool = False


@dataclass(frozen=True)
class Tensor:
    """One tensor of a kind.

    Attributes:
        name: Name in the file. A name that ends in ``*`` stands for any number of tensors.
        dtypes: Allowed safetensors dtypes; empty for any.
        axes: One letter or fixed size per axis; None for any shape (only for ``*``).
        meaning: Meaning of the numbers, with unit and range.
        required: Whether the file must hold it; or a key of ``info`` and the words there with which
            it must.
        values: Range of the numbers, beside that they are finite.
    """

    name: str
    dtypes: tuple[str, ...]
    axes: tuple[str | int, ...] | None
    meaning: str
    required: bool | tuple[str, ...] = True
    values: Values = Values()


@dataclass(frozen=True)
class Kind:
    """The schema of one kind of file.

    Attributes:
        name: Name in the header.
        version: Goes up by one with every change of the schema.
        tensors: The tensors.
        metadata: Rule of each key of ``info`` in the header.
        summary: One line.
        whole: Broken rule of several keys together; None where there is none.
    """

    name: str
    version: int
    tensors: tuple[Tensor, ...]
    metadata: Info
    summary: str
    whole: Callable[[Mapping[str, Any]], str | None] = lambda _info: None


_BYTE, _INT, _FLAG = ("U8",), ("I64",), ("BOOL",)
_REAL, _EXACT, _STORED = ("F32",), ("F64",), ("F32", "BF16")

_CLASS, _COUNT = Values(0, below="C"), Values(0)
_EVERY_CLASS = Values(0, below="C", counted="class_counts")
# Sums of shares and cosines may pass their bounds by rounding.
_SHARE, _ANGLE = Values(-1e-6, 1 + 1e-6), Values(0, 90.001)
_RISING_CLASS, _AMONG_SAMPLES = Values(0, below="C", rising=True), Values(0, below="S")
_FILES, _SIZES = Values(rows="NVT", paths=True), Values(0, rows="NVT")
_EPOCHS, _VARIANCES = Values(0, rising=True), Values(0, diagonal=True)
# Of networks and optimisers, whose tensors a schema knows by their beginning alone.
BY_ENDING = dict.fromkeys((".running_var", ".exp_avg_sq", ".step"), _COUNT)


def _part(part: str, letter: str, labels: Values = _CLASS) -> tuple[Tensor, ...]:
    pool = f"position in the source's own {part} part, or in its train part if it has none"
    size, of_images, of_features = (letter, "H", "W", 3), ("store", "images"), ("store", "features")
    return (
        Tensor(f"{part}.images", _BYTE, size, "RGB, 0..255", of_images),
        Tensor(f"{part}.features", _REAL, (letter, "D"), "embeddings, no images", of_features),
        Tensor(f"{part}.labels", _INT, (letter,), "class, 0..C-1", values=labels),
        Tensor(f"{part}.index", _INT, (letter,), pool, values=_COUNT),
        Tensor(f"{part}.groups", _INT, (letter,), _TOGETHER, False, _COUNT),
    )


def _bank(part: str, letter: str, labels: Values = _CLASS) -> tuple[Tensor, ...]:
    return (
        Tensor(f"{part}.features", _STORED, (letter, "D"), "penultimate, after pooling"),
        Tensor(f"{part}.labels", _INT, (letter,), "class, 0..C-1", values=labels),
    )


_TOGETHER = "group that stays in one part, and in one fold"
_OWN = "logits of the model's own classifier"
_PATHS = "relative paths of train, val and test images, UTF-8, NUL-joined"
_EIGENVALUES = "eigenvalues of {}, falling, feature units squared"
_ANGLES = "between leading subspaces, rising, degrees"
_CAPTURED = "share of the oracle's variance in the {} leading directions"
_POSITIONS = "positions among the samples"
_SQUARE = ("C", "C")
_SQUARED, _OFFSETS = "feature units squared", "class c has rows offsets[c]:offsets[c+1]"

_COUNTS = listed(count(), "a list of counts", length="C")
_CLASSES: Info = {
    "class_names": listed(TEXT, "a list of text", length="C"),
    "class_counts": _COUNTS,
}
_OF_MODEL: Info = {"split": TEXT, "model": TEXT, "epoch": optional(count(1))}
_MADE_OF: Info = {**_CLASSES, **_OF_MODEL}
_ALONE = "features"
_UNIT, _ON = "three numbers in 0 ... 1, or nothing", one_of("test", "val")
_STEP = Rule(
    lambda value: isinstance(value, list) and list(map(type, value)) == [str, dict], "a pair"
)
_TRAINED: Info = {
    "method": TEXT,
    "recipe": listed(_STEP, "a list of stages with their parameters", empty=True),
    "backbone": BACKBONE,
}
# Named here too, as this table loads no torch.
CLASSIFIERS = ("linear", "cosine", "memory", *(f"experts{size}" for size in range(2, 10)))
_ACCURACY = nullable(number(0, 1))
_POINT = Record(
    {
        "tau": number(0),
        "balanced": number(0, 1),
        "many": _ACCURACY,
        "medium": _ACCURACY,
        "few": _ACCURACY,
        "log_loss": number(0),
    }
)
_ADJUSTMENT = Record(
    {
        "by": one_of("prior", "tau", "costs"),
        "added": listed(number(), "a list of numbers", length="C"),
        "tau": optional(number()),
        "base": optional(one_of("uniform", "training images")),
        "trade_off": optional(listed(_POINT, "a list of points")),
    }
)
_COMPARED = optional(Record({"on": _ON, "method": TEXT}))
_WITH_ROWS, _WITH_DIAGONAL = ("form", "factor", "low-rank"), ("form", "diagonal", "low-rank")

# A new kind is one entry; a changed one gets the next version, and files of the old one a clear
# error instead of a wrong tensor.
_KINDS = (
    Kind(
        "split",
        3,
        (
            *_part("train", "N", _EVERY_CLASS),
            *_part("val", "V"),
            *_part("test", "T"),
            Tensor("files", _BYTE, ("P",), _PATHS, ("store", "files"), _FILES),
            Tensor("sizes", _INT, ("F",), "bytes of each of them", ("store", "files"), _SIZES),
        ),
        {
            **_CLASSES,
            "val_counts": optional(_COUNTS),
            "mean": listed(number(0, 1), _UNIT, length=3, empty=True),
            "std": listed(number(1e-6, 1), _UNIT, length=3, empty=True),
            "source": TEXT,
            "store": one_of("images", "files", _ALONE),
            "image_size": replace(SIDES, axes=lambda value: dict(zip("HW", value, strict=False))),
            "max_pixels": nullable(count(1)),
            "source_counts": _COUNTS,
            "groups": Record(dict.fromkeys(("train", "val", "test"), optional(count()))),
            "profile": optional(TEXT),
            "skipped": optional(count()),
        },
        "long-tailed train, val and test images, the paths of their files, or embeddings",
        lambda info: (
            None
            if {bool(info[key]) for key in ("mean", "std", "image_size")}
            == {info["store"] != _ALONE}
            else "mean, std and image_size must be given for images alone"
        ),
    ),
    Kind(
        "model",
        3,
        (
            Tensor("backbone.*", (), None, "state of the backbone, none for embeddings", False),
            Tensor("classifier.weight", _REAL, ("C", "D"), "one row per class"),
            Tensor("classifier.bias", _REAL, ("C",), "added before the factors"),
            Tensor("classifier.scales", _REAL, ("C",), "factor of each class's logit"),
            Tensor("classifier.memory.*", (), None, "centroids and their use, OLTR's", False),
            Tensor("snapshots.epoch", _INT, ("E",), "epochs from 0, ascending", False, _EPOCHS),
            Tensor("snapshots.*", (), ("E", "..."), "the same state after those epochs", False),
            Tensor("method.*", (), None, "state of the method at the end of training", False),
        ),
        {
            **_CLASSES,
            **_TRAINED,
            "split": TEXT,
            "classifier": one_of(*CLASSIFIERS),
            "balanced": FLAG,
            "epochs": count(),
            "adjustment": optional(_ADJUSTMENT),
        },
        "backbone and classifier",
    ),
    Kind(
        "features",
        3,
        (
            *_bank("train", "N", _EVERY_CLASS),
            *_bank("val", "V"),
            *_bank("test", "T"),
            Tensor("train.groups", _INT, ("N",), _TOGETHER, False, _COUNT),
            Tensor("val.logits", _REAL, ("V", "C"), _OWN),
            Tensor("test.logits", _REAL, ("T", "C"), _OWN),
            Tensor("train.views", _STORED, ("Q", "N", "D"), "features of augmented images", False),
            Tensor("train.maps", _STORED, ("N", "D", "Y", "X"), "before pooling", False),
        ),
        {**_MADE_OF, "backbone": BACKBONE},
        "features and labels of every image, logits of those not trained on",
    ),
    Kind(
        "covariances",
        1,
        (
            Tensor("means", _REAL, ("C", "D"), "feature units"),
            Tensor("counts", _INT, ("C",), "training images", values=_COUNT),
            Tensor("full", _REAL, ("C", "D", "D"), _SQUARED, ("form", "full"), _VARIANCES),
            Tensor("diagonal", _REAL, ("C", "D"), _SQUARED, _WITH_DIAGONAL, _COUNT),
            Tensor("rows", _REAL, ("R", "D"), "F with covariance F'F", _WITH_ROWS),
            Tensor("offsets", _INT, ("O",), _OFFSETS, _WITH_ROWS, Values(spans="R")),
        ),
        {
            **_MADE_OF,
            "split": nullable(TEXT),
            "form": one_of("full", "factor", "low-rank", "diagonal"),
            "splits": optional(listed(TEXT, "a list of text")),
            "single_image_classes": optional(count()),
            "rank": optional(count(1)),
            "relative_error": optional(number(0)),
        },
        "class means and covariances",
        lambda info: (
            None
            if (info["split"] is None) == ("splits" in info)
            else "split must be null for merged covariances alone, which have splits"
        ),
    ),
    Kind(
        "confusion",
        1,
        (
            Tensor(
                "graph", _REAL, _SQUARE, "share of class-i images predicted as j", values=_SHARE
            ),
            Tensor("scores", _REAL, _SQUARE, "mean probability of j over class i", values=_SHARE),
            Tensor("top", _INT, ("C", "K"), "most confusing other classes, first", values=_CLASS),
        ),
        _MADE_OF,
        "class confusion graph of the training set",
    ),
    Kind(
        "generator",
        1,
        (
            Tensor("tokens", _REAL, ("C", "D"), "added to features; of head classes: trained"),
            Tensor("head", _FLAG, ("C",), "whether a class is a head class"),
            Tensor("class_means", _REAL, ("C", "D"), "means of training features, feature units"),
            Tensor("mean_mlp.*", (), None, "network of the mean of differences"),
            Tensor("variance_mlp.*", (), None, "network of their variance, before softplus"),
        ),
        {**_MADE_OF, "width": count(1), "layers": count(1, 1000)},
        "generator of differences between features of a class",
    ),
    Kind(
        "predictions",
        3,
        (
            Tensor("logits", _REAL, ("M", "C"), "logits after the last epoch"),
            Tensor("labels", _INT, ("M",), "class, 0..C-1", values=_CLASS),
            Tensor("snapshots.epoch", _INT, ("E",), "epochs from 0, ascending", False, _EPOCHS),
            Tensor("snapshots.predicted", _INT, ("E", "M"), "class per epoch", False, _CLASS),
        ),
        {
            **_MADE_OF,
            **_TRAINED,
            "on": _ON,
            "images": TEXT,
            "stage": TEXT,
            "network_parameters": count(),
            "held_out": count(),
        },
        "logits and labels of the test or validation set",
    ),
    Kind(
        "diagnosis",
        2,
        (
            Tensor("tail", _INT, ("U",), "tail classes, ascending", values=_RISING_CLASS),
            Tensor("smallest", _INT, ("J",), "sampled tail classes, fewest first", values=_CLASS),
            *(
                Tensor(f"spectrum.{name}", _EXACT, ("C", "D"), _EIGENVALUES.format(of), required)
                for name, of, required in (
                    ("estimated", "the training features", True),
                    ("learned", "the run's own covariances", False),
                    ("oracle", "the features of the oracle", False),
                )
            ),
            *(
                Tensor(f"angles.{pair}", _EXACT, ("C", "L"), _ANGLES, False, _ANGLE)
                for pair in ("estimated-oracle", "learned-oracle", "learned-estimated")
            ),
            *(
                Tensor(f"captured.{name}", _EXACT, ("C",), _CAPTURED.format(name), False, _SHARE)
                for name in ("estimated", "learned", "oracle")
            ),
            Tensor(
                "confusion.before", _EXACT, _SQUARE, "class-i images taken for j", False, _COUNT
            ),
            Tensor("confusion.after", _EXACT, _SQUARE, "class-i images taken for j", False, _COUNT),
            Tensor("samples.features", _REAL, ("S", "D"), "real and augmented features"),
            Tensor("samples.labels", _INT, ("S",), "class, 0..C-1", values=_CLASS),
            Tensor(
                "samples.origin", _INT, ("S",), "0 real, 1 Gaussian, 2 made", values=Values(0, 2)
            ),
            Tensor("samples.row", _INT, ("S",), "training image it was made from", values=_COUNT),
            Tensor("samples.head", _INT, ("S",), "nearest head class of that", values=_CLASS),
            Tensor("neighbours.row", _INT, ("S", "K"), "nearest other images", values=_COUNT),
            Tensor("neighbours.labels", _INT, ("S", "K"), "their classes", values=_CLASS),
            Tensor("neighbours.distances", _REAL, ("S", "K"), "feature units", values=_COUNT),
            Tensor("divergences", _EXACT, ("G", "G"), "KL(i, j) of predictions, nats", False),
            Tensor("divergences.sample", _INT, ("G",), _POSITIONS, False, _AMONG_SAMPLES),
            Tensor("donors.risda", _EXACT, ("U", "C"), "share of the variance", False, _SHARE),
            Tensor("donors.feature-fusion", _EXACT, ("U", "C"), "share of donors", False, _SHARE),
            Tensor("donors.stg", _EXACT, ("U", "C"), "share by nearest head", values=_SHARE),
            Tensor("pictures.sample", _INT, ("I",), _POSITIONS, False, _AMONG_SAMPLES),
            Tensor("pictures.source", _BYTE, ("I", "H", "W", 3), "its image", False),
            Tensor("pictures.nearest", _BYTE, ("I", "K", "H", "W", 3), "neighbours", False),
        ),
        {**_MADE_OF, "predictions": Record({"before": _COMPARED, "after": _COMPARED})},
        "spectra, confusion, neighbours and donors of the classes",
    ),
    Kind(
        "checkpoint",
        1,
        (Tensor("state.*", (), None, "everything that training needs to go on"),),
        {"position": MAPPING},
        "state of an unfinished stage",
    ),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}
