"""The kinds of artifact: exactly which tensors and which metadata each one holds.

Axis letters: N training images, V validation images, T test images, M predicted images, H W image,
C classes, D feature dimension, Q augmented views, Y X feature map, R rows of covariance factors,
O = C + 1 offsets, K neighbours, E epochs, P bytes, F files, U tail classes, J sampled tail
classes, L leading directions, S sampled features, G features with a divergence, I pictures. A
letter is one size within a file.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """One tensor of a kind.

    Attributes:
        name: Name in the file. A name that ends in ``*`` stands for any number of tensors.
        dtypes: Allowed safetensors dtypes; empty for any.
        axes: One letter or fixed size per axis; None for any shape (only for ``*``).
        meaning: What the numbers are, with unit and range.
        required: Whether the file must hold it.
    """

    name: str
    dtypes: tuple[str, ...]
    axes: tuple[str | int, ...] | None
    meaning: str
    required: bool = True


@dataclass(frozen=True)
class Kind:
    """What a file of one kind holds.

    Attributes:
        name: Name in the header.
        version: Goes up by one with every change of the schema.
        tensors: The tensors.
        metadata: Keys that ``info`` in the header must have.
        summary: One line.
    """

    name: str
    version: int
    tensors: tuple[Tensor, ...]
    metadata: tuple[str, ...]
    summary: str


_BYTE, _INT, _FLAG = ("U8",), ("I64",), ("BOOL",)
_REAL, _EXACT, _STORED = ("F32",), ("F64",), ("F32", "BF16")


def _part(part: str, letter: str) -> tuple[Tensor, ...]:
    pool = f"position in the source's own {part} part, or in its train part if it has none"
    return (
        Tensor(f"{part}.images", _BYTE, (letter, "H", "W", 3), "RGB, 0..255", False),
        Tensor(f"{part}.features", _REAL, (letter, "D"), "embeddings in place of images", False),
        Tensor(f"{part}.labels", _INT, (letter,), "class, 0..C-1"),
        Tensor(f"{part}.index", _INT, (letter,), pool),
    )


def _bank(part: str, letter: str) -> tuple[Tensor, ...]:
    return (
        Tensor(f"{part}.features", _STORED, (letter, "D"), "penultimate, after pooling"),
        Tensor(f"{part}.labels", _INT, (letter,), "class, 0..C-1"),
    )


def _logits(part: str, letter: str) -> Tensor:
    return Tensor(f"{part}.logits", _REAL, (letter, "C"), "of the model's own classifier")


def _spectrum(what: str, of: str, required: bool) -> Tensor:
    meaning = f"eigenvalues of {of}, falling, feature units squared"
    return Tensor(f"spectrum.{what}", _EXACT, ("C", "D"), meaning, required)


def _angles(pair: str) -> Tensor:
    meaning = "between leading subspaces, rising, degrees"
    return Tensor(f"angles.{pair}", _EXACT, ("C", "L"), meaning, False)


def _captured(what: str) -> Tensor:
    meaning = f"share of the oracle's variance in the {what} leading directions"
    return Tensor(f"captured.{what}", _EXACT, ("C",), meaning, False)


_CLASSIFIER = (
    Tensor("classifier.weight", _REAL, ("C", "D"), "one row per class"),
    Tensor("classifier.bias", _REAL, ("C",), "added before the factors"),
    Tensor("classifier.scales", _REAL, ("C",), "factor of each class's logit"),
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "split",
            2,
            (
                *_part("train", "N"),
                *_part("val", "V"),
                *_part("test", "T"),
                Tensor(
                    "files",
                    _BYTE,
                    ("P",),
                    "relative paths of train, val and test images, UTF-8, NUL-joined",
                    False,
                ),
                Tensor("sizes", _INT, ("F",), "bytes of each of these files", False),
            ),
            ("class_names", "class_counts", "mean", "std", "source", "store", "image_size"),
            "long-tailed train, val and test images, the paths of their files, or embeddings",
        ),
        Kind(
            "model",
            3,
            (
                Tensor("backbone.*", (), None, "state of the backbone, none for embeddings", False),
                *_CLASSIFIER,
                Tensor("classifier.memory.*", (), None, "centroids and their use, OLTR's", False),
                Tensor("snapshots.epoch", _INT, ("E",), "epochs from 0, ascending", False),
                Tensor("snapshots.*", (), None, "the same state after those epochs", False),
                Tensor("method.*", (), None, "state of the method at the end of training", False),
            ),
            (
                "class_names",
                "class_counts",
                "split",
                "backbone",
                "classifier",
                "method",
                "balanced",
                "epochs",
                "recipe",
            ),
            "backbone and classifier",
        ),
        Kind(
            "features",
            3,
            (
                *_bank("train", "N"),
                *_bank("val", "V"),
                *_bank("test", "T"),
                _logits("val", "V"),
                _logits("test", "T"),
                Tensor("train.views", _STORED, ("Q", "N", "D"), "of augmented images", False),
                Tensor("train.maps", _STORED, ("N", "D", "Y", "X"), "before pooling", False),
            ),
            ("class_names", "class_counts", "split", "model", "backbone"),
            "features and labels of every image, logits of those not trained on",
        ),
        Kind(
            "covariances",
            1,
            (
                Tensor("means", _REAL, ("C", "D"), "feature units"),
                Tensor("counts", _INT, ("C",), "training images"),
                Tensor("full", _REAL, ("C", "D", "D"), "feature units squared", False),
                Tensor("diagonal", _REAL, ("C", "D"), "feature units squared", False),
                Tensor("rows", _REAL, ("R", "D"), "F with covariance F'F", False),
                Tensor("offsets", _INT, ("O",), "class c has rows offsets[c]:offsets[c+1]", False),
            ),
            ("class_names", "class_counts", "split", "model", "form"),
            "class means and covariances",
        ),
        Kind(
            "confusion",
            1,
            (
                Tensor("graph", _REAL, ("C", "C"), "share of class-i images predicted as j"),
                Tensor("scores", _REAL, ("C", "C"), "mean probability of j over class i"),
                Tensor("top", _INT, ("C", "K"), "most confusing other classes, first is most"),
            ),
            ("class_names", "class_counts", "split", "model"),
            "class confusion graph of the training set",
        ),
        Kind(
            "generator",
            1,
            (
                Tensor("tokens", _REAL, ("C", "D"), "added to features; of head classes: trained"),
                Tensor("head", _FLAG, ("C",), "whether a class is a head class"),
                Tensor("class_means", _REAL, ("C", "D"), "of training features, feature units"),
                Tensor("mean_mlp.*", (), None, "network of the mean of differences"),
                Tensor("variance_mlp.*", (), None, "network of their variance, before softplus"),
            ),
            ("class_names", "class_counts", "split", "model", "width", "layers"),
            "generator of differences between features of a class",
        ),
        Kind(
            "predictions",
            3,
            (
                Tensor("logits", _REAL, ("M", "C"), "of the last epoch"),
                Tensor("labels", _INT, ("M",), "class, 0..C-1"),
                Tensor("snapshots.epoch", _INT, ("E",), "epochs from 0, ascending", False),
                Tensor("snapshots.predicted", _INT, ("E", "M"), "class per epoch", False),
            ),
            (
                "class_names",
                "class_counts",
                "split",
                "model",
                "on",
                "images",
                "method",
                "stage",
                "recipe",
                "network_parameters",
                "held_out",
                "backbone",
            ),
            "logits and labels of the test or validation set",
        ),
        Kind(
            "diagnosis",
            2,
            (
                Tensor("tail", _INT, ("U",), "tail classes, ascending"),
                Tensor("smallest", _INT, ("J",), "sampled tail classes, fewest images first"),
                _spectrum("estimated", "the training features", True),
                _spectrum("learned", "the run's own covariances", False),
                _spectrum("oracle", "the features of the oracle", False),
                _angles("estimated-oracle"),
                _angles("learned-oracle"),
                _angles("learned-estimated"),
                _captured("estimated"),
                _captured("learned"),
                _captured("oracle"),
                Tensor("confusion.before", _EXACT, ("C", "C"), "class-i images taken for j", False),
                Tensor("confusion.after", _EXACT, ("C", "C"), "class-i images taken for j", False),
                Tensor("samples.features", _REAL, ("S", "D"), "real and augmented features"),
                Tensor("samples.labels", _INT, ("S",), "class, 0..C-1"),
                Tensor("samples.origin", _INT, ("S",), "0 real, 1 Gaussian, 2 generator"),
                Tensor("samples.row", _INT, ("S",), "training image it is, or was made from"),
                Tensor("samples.head", _INT, ("S",), "nearest head class of that image"),
                Tensor("neighbours.row", _INT, ("S", "K"), "nearest other training images"),
                Tensor("neighbours.labels", _INT, ("S", "K"), "their classes"),
                Tensor("neighbours.distances", _REAL, ("S", "K"), "feature units, rising"),
                Tensor("divergences", _EXACT, ("G", "G"), "KL(i, j) of predictions, nats", False),
                Tensor("divergences.sample", _INT, ("G",), "positions among the samples", False),
                Tensor("donors.risda", _EXACT, ("U", "C"), "share of the variance lent", False),
                Tensor("donors.feature-fusion", _EXACT, ("U", "C"), "share of donors", False),
                Tensor("donors.stg", _EXACT, ("U", "C"), "share by nearest head class"),
                Tensor("pictures.sample", _INT, ("I",), "positions among the samples", False),
                Tensor("pictures.source", _BYTE, ("I", "H", "W", 3), "its image", False),
                Tensor("pictures.nearest", _BYTE, ("I", "K", "H", "W", 3), "neighbours", False),
            ),
            ("class_names", "class_counts", "split", "model", "predictions"),
            "spectra, confusion, neighbours and donors of the classes",
        ),
        Kind(
            "checkpoint",
            1,
            (Tensor("state.*", (), None, "everything that training needs to go on"),),
            ("position",),
            "state of an unfinished stage",
        ),
    )
}
