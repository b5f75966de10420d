"""The data sets that ``ltcli split`` knows, as a literal table that needs no torch to be read."""

from dataclasses import dataclass

from ltcli.core.errors import ParamError


@dataclass(frozen=True)
class Source:
    """What is known of a data set before any of it is read.

    Args:
        name: As on the command line.
        summary: One sentence for the help text.
        needs_root: Whether it lies in a folder of the user's; if not, it comes with the package.
        natural: Whether its own class counts are kept unless a profile is asked for.
        mean: Mean of each colour channel, 0..1; None where the training images decide.
        std: Standard deviation of each colour channel, 0..1; None where the training images decide.
    """

    name: str
    summary: str
    needs_root: bool
    natural: bool
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None


# LDAM-DRW and nearly everybody after it normalise both CIFAR sets with these CIFAR-10 figures. The
# deviations are means over images of each image's own, so they are smaller than those over pixels.
_CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR_STD = (0.2023, 0.1994, 0.2010)

SOURCES: dict[str, Source] = {
    "cifar10": Source(
        name="cifar10",
        summary="CIFAR-10: 50,000 + 10,000 photos of 10 classes, 32 x 32.",
        needs_root=True,
        natural=False,
        mean=_CIFAR_MEAN,
        std=_CIFAR_STD,
    ),
    "cifar100": Source(
        name="cifar100",
        summary="CIFAR-100: 50,000 + 10,000 photos of 100 classes, 32 x 32.",
        needs_root=True,
        natural=False,
        mean=_CIFAR_MEAN,
        std=_CIFAR_STD,
    ),
    "fashion-mnist": Source(
        name="fashion-mnist",
        summary="Fashion-MNIST: 60,000 + 10,000 grey pictures of 10 garments, 28 x 28.",
        needs_root=True,
        natural=False,
        mean=None,
        std=None,
    ),
    "digits": Source(
        name="digits",
        summary="UCI digits: 1,797 hand-written digits, 8 x 8; comes with ltcli.",
        needs_root=False,
        natural=False,
        mean=None,
        std=None,
    ),
    "folder": Source(
        name="folder",
        summary="Your own images: one sub-folder per class, or train/ and test/ of such.",
        needs_root=True,
        natural=True,
        mean=None,
        std=None,
    ),
}


def require_root(name: str, root: object) -> None:
    """Refuse a source that lies in a folder of the user's if no folder was named.

    Raises:
        ParamError: There is no root.
    """
    if root is None and SOURCES[name].needs_root:
        hint = "name the folder that holds the data set"
        raise ParamError("split", f"source '{name}' needs --root", hint)
