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
        meaning: Meaning of the numbers, with unit and range.
        required: Whether the file must hold it.
    """

    name: str
    dtypes: tuple[str, ...]
    axes: tuple[str | int, ...] | None
    meaning: str
    required: bool = True


@dataclass(frozen=True)
class Kind:
    """The schema of one kind of file.

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
        Tensor(f"{part}.groups", _INT, (letter,), "group that stays in one part", False),
    )


def _bank(part: str, letter: str) -> tuple[Tensor, ...]:
    return (
        Tensor(f"{part}.features", _STORED, (letter, "D"), "penultimate, after pooling"),
        Tensor(f"{part}.labels", _INT, (letter,), "class, 0..C-1"),
    )


_OWN = "logits of the model's own classifier"
_PATHS = "relative paths of train, val and test images, UTF-8, NUL-joined"
_EIGENVALUES = "eigenvalues of {}, falling, feature units squared"
_ANGLES = "between leading subspaces, rising, degrees"
_CAPTURED = "share of the oracle's variance in the {} leading directions"

_CLASSES = ("class_names", "class_counts")
_MADE_OF = (*_CLASSES, "split", "model")
_SCORED = ("on", "images", "method", "stage", "recipe", "network_parameters", "held_out")

# A new kind is one entry; a changed one gets the next version, and files of the old one a clear
# error instead of a wrong tensor.
_KINDS = (
    Kind(
        "split",
        3,
        (
            *_part("train", "N"),
            *_part("val", "V"),
            *_part("test", "T"),
            Tensor("files", _BYTE, ("P",), _PATHS, False),
            Tensor("sizes", _INT, ("F",), "bytes of each of these files", False),
        ),
        (
            *(*_CLASSES, "mean", "std", "source", "store", "image_size", "max_pixels"),
            *("source_counts", "groups"),
        ),
        "long-tailed train, val and test images, the paths of their files, or embeddings",
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
            Tensor("snapshots.epoch", _INT, ("E",), "epochs from 0, ascending", False),
            Tensor("snapshots.*", (), None, "the same state after those epochs", False),
            Tensor("method.*", (), None, "state of the method at the end of training", False),
        ),
        (*_CLASSES, "split", "backbone", "classifier", "method", "balanced", "epochs", "recipe"),
        "backbone and classifier",
    ),
    Kind(
        "features",
        3,
        (
            *_bank("train", "N"),
            *_bank("val", "V"),
            *_bank("test", "T"),
            Tensor("val.logits", _REAL, ("V", "C"), _OWN),
            Tensor("test.logits", _REAL, ("T", "C"), _OWN),
            Tensor("train.views", _STORED, ("Q", "N", "D"), "features of augmented images", False),
            Tensor("train.maps", _STORED, ("N", "D", "Y", "X"), "before pooling", False),
        ),
        (*_MADE_OF, "backbone"),
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
        (*_MADE_OF, "form"),
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
        (*_MADE_OF, "width", "layers"),
        "generator of differences between features of a class",
    ),
    Kind(
        "predictions",
        3,
        (
            Tensor("logits", _REAL, ("M", "C"), "logits after the last epoch"),
            Tensor("labels", _INT, ("M",), "class, 0..C-1"),
            Tensor("snapshots.epoch", _INT, ("E",), "epochs from 0, ascending", False),
            Tensor("snapshots.predicted", _INT, ("E", "M"), "class per epoch", False),
        ),
        (*_MADE_OF, *_SCORED, "backbone"),
        "logits and labels of the test or validation set",
    ),
    Kind(
        "diagnosis",
        2,
        (
            Tensor("tail", _INT, ("U",), "tail classes, ascending"),
            Tensor("smallest", _INT, ("J",), "sampled tail classes, fewest images first"),
            *(
                Tensor(f"spectrum.{name}", _EXACT, ("C", "D"), _EIGENVALUES.format(of), required)
                for name, of, required in (
                    ("estimated", "the training features", True),
                    ("learned", "the run's own covariances", False),
                    ("oracle", "the features of the oracle", False),
                )
            ),
            *(
                Tensor(f"angles.{pair}", _EXACT, ("C", "L"), _ANGLES, False)
                for pair in ("estimated-oracle", "learned-oracle", "learned-estimated")
            ),
            *(
                Tensor(f"captured.{name}", _EXACT, ("C",), _CAPTURED.format(name), False)
                for name in ("estimated", "learned", "oracle")
            ),
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
        (*_MADE_OF, "predictions"),
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
KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}
