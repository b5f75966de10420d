"""The data sets that ``ltcli split`` knows, as a literal table that needs no torch to be read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ltcli.core.errors import ParamError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Counts:
    """How large a published data set is: classes, and images by part (None: it has no such)."""

    classes: int
    train: int
    val: int | None
    test: int


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
        of_files: Whether its images are files of their own, which need not be decoded by ``split``.
        of_images: Whether ``split`` decodes images of any size and number out of other files.
        forms: The sets of files that can describe it, the first one found is read: parameter to
            published name under the root, None where there is none.
        required: Parameters that must be given.
        suffixes: Of the files that hold the samples themselves, where they are not image files.
        counts: What a published data set must have.
    """

    name: str
    summary: str
    needs_root: bool = True
    natural: bool = True
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    of_files: bool = False
    of_images: bool = False
    forms: tuple[Mapping[str, str | None], ...] = ({},)
    required: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    counts: Counts | None = None


"""What published weights were trained with, and images in files that nothing else is known of."""

# Of the code of Kang et al. and those after it; BBN takes ImageNet's.
_INAT_MEAN, _INAT_STD = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)

# LDAM-DRW and nearly everybody after it normalise both CIFAR sets with these CIFAR-10 figures. The
# deviations are means over images of each image's own, so they are smaller than those over pixels.
_CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR_STD = (0.2023, 0.1994, 0.2010)

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "cifar10",
            "CIFAR-10: 50,000 + 10,000 photos of 10 classes, 32 x 32.",
            natural=False,
            mean=_CIFAR_MEAN,
            std=_CIFAR_STD,
        ),
        Source(
            "cifar100",
            "CIFAR-100: 50,000 + 10,000 photos of 100 classes, 32 x 32.",
            natural=False,
            mean=_CIFAR_MEAN,
            std=_CIFAR_STD,
        ),
        Source(
            "fashion-mnist",
            "Fashion-MNIST: 60,000 + 10,000 grey pictures of 10 garments, 28 x 28.",
            natural=False,
        ),
        Source(
            "digits",
            "UCI digits: 1,797 hand-written digits, 8 x 8; comes with ltcli.",
            needs_root=False,
            natural=False,
        ),
        Source(
            "folder",
            "Your own images: one sub-folder per class, or train/ and test/ of such.",
            of_files=True,
        ),
        Source(
            "list",
            "Your own images: text files of lines 'path label'.",
            of_files=True,
            forms=({"train_list": None, "val_list": None, "test_list": None, "class_names": None},),
            required=("train_list",),
        ),
        Source(
            "csv",
            "Your own images: a table with the columns path, label and perhaps split.",
            of_files=True,
            forms=({"table": None},),
            required=("table",),
        ),
        Source(
            "inat",
            "Your own images: annotations in the JSON form of iNaturalist (and COCO).",
            of_files=True,
            forms=({"train_json": None, "val_json": None},),
            required=("train_json",),
        ),
        # Lists of OLTR (Liu et al., CVPR 2019, arXiv 1904.05160), whose sizes these are.
        Source(
            "imagenet-lt",
            "ImageNet-LT: 115,846 + 20,000 + 50,000 photos of 1,000 classes.",
            of_files=True,
            forms=(
                {
                    "train_list": "ImageNet_LT_train.txt",
                    "val_list": "ImageNet_LT_val.txt",
                    "test_list": "ImageNet_LT_test.txt",
                    "class_names": None,
                },
            ),
            counts=Counts(1000, 115_846, 20_000, 50_000),
        ),
        Source(
            "places-lt",
            "Places-LT: 62,500 + 7,300 + 36,500 photos of 365 classes.",
            of_files=True,
            forms=(
                {
                    "train_list": "Places_LT_train.txt",
                    "val_list": "Places_LT_val.txt",
                    "test_list": "Places_LT_test.txt",
                    "class_names": None,
                },
            ),
            counts=Counts(365, 62_500, 7_300, 36_500),
        ),
        # The official validation images are the test part, as results are reported on them. Lists
        # of 2018: Kang et al., ICLR 2020, arXiv 1910.09217.
        Source(
            "inat2017",
            "iNaturalist 2017: 579,184 + 95,986 photos of 5,089 classes.",
            mean=_INAT_MEAN,
            std=_INAT_STD,
            of_files=True,
            forms=(
                {"train_json": "train2017.json", "val_json": "val2017.json"},
                # Lists of 2017 have no published names; these follow those of 2018.
                {
                    "train_list": "iNaturalist17_train.txt",
                    "test_list": "iNaturalist17_val.txt",
                    "class_names": None,
                },
            ),
            counts=Counts(5089, 579_184, None, 95_986),
        ),
        Source(
            "inat2018",
            "iNaturalist 2018: 437,513 + 24,426 photos of 8,142 classes.",
            mean=_INAT_MEAN,
            std=_INAT_STD,
            of_files=True,
            forms=(
                {"train_json": "train2018.json", "val_json": "val2018.json"},
                {
                    "train_list": "iNaturalist18_train.txt",
                    "test_list": "iNaturalist18_val.txt",
                    "class_names": None,
                },
            ),
            counts=Counts(8142, 437_513, None, 24_426),
        ),
        Source(
            "parquet",
            "Images in Parquet files as Hugging Face writes them: columns image and label.",
            of_images=True,
            suffixes=(".parquet",),
        ),
        Source(
            "embeddings",
            "Features of images, of any model: safetensors, npy, npz, Parquet or CSV.",
            forms=({"labels": None, "class_names": None},),
            suffixes=(".safetensors", ".npy", ".npz", ".parquet", ".csv"),
        ),
    )
}

# Every parameter that names a file beside the root.
FILE_PARAMETERS = tuple(
    dict.fromkeys(option for source in SOURCES.values() for form in source.forms for option in form)
)


def require_root(name: str, root: object) -> None:
    """Refuse a source that lies in a folder of the user's if no folder was named.

    Raises:
        ParamError: There is no root.
    """
    if root is None and SOURCES[name].needs_root:
        hint = "name the folder that holds the data set"
        raise ParamError("split", f"source '{name}' needs --root", hint)


def require_options(name: str, given: Collection[str]) -> None:
    """Refuse options that a source does not read, and the lack of one that it needs.

    Args:
        name: A name of the table.
        given: The parameters that not every source reads and that were given.

    Raises:
        ParamError: One is not read, is missing, or two do not go together.
    """
    source = SOURCES[name]
    read = {option for form in source.forms for option in form}
    read |= {"store", "verify"} if source.of_files else set()
    read |= {"image_size", "on_bad_image"} if source.of_files or source.of_images else set()
    read |= {"partial"} if source.counts else set()
    for option in given:
        if option not in read:
            reads = ", ".join(sorted(map(_flag, read)))
            hint = f"it reads {reads}" if reads else None
            raise ParamError("split", f"source '{name}' does not read {_flag(option)}", hint)
    for option in source.required:
        if option not in given:
            raise ParamError("split", f"source '{name}' needs {_flag(option)}", "name the file")
    files = [option for option in given if option in FILE_PARAMETERS]
    if not any(set(files) <= set(form) for form in source.forms):
        either = " or ".join(_flag(next(iter(form))) for form in source.forms)
        raise ParamError("split", f"source '{name}' reads {either}, got options of both")


def files_of(name: str, root: Path, named: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that describe a data set: the named ones, the others under their own names.

    Args:
        name: A name of the table.
        root: The folder of the data set.
        named: Parameter to file, for those that were given.

    Returns:
        Parameter to file.
    """
    forms = [form for form in SOURCES[name].forms if set(named) <= set(form)]
    published = [
        {option: root / file for option, file in form.items() if file is not None} for form in forms
    ]
    there = [files for files in published if any(path.is_file() for path in files.values())]
    return {**(there or published)[0], **{option: Path(path) for option, path in named.items()}}


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
