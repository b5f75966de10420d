"""The data sets that ``ltcli split`` knows, as a literal table that loads no torch.

A new data set is one line of this table and one module beside it, whose function ``read`` takes a
``Request`` and returns a ``Pool`` (samples) or a ``Listed`` (image files with their classes).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ltcli.core.errors import DataError, ParamError

PARTS = ("train", "val", "test")
# Side of decoded images in pixels, where nobody names one.
STORED_SIZE = 32
# Names of folders, and of a table's parts, in use for each part.
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# A file of a few kilobytes can claim any size and fill the memory.
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Counts:
    """Size of a published data set: classes, and images by part; None for a part that it lacks."""

    classes: int
    train: int
    val: int | None
    test: int

    def difference(self, num_classes: int, sizes: Mapping[str, int]) -> str | None:
        """Return the first difference of a data set from the published one, None for none."""
        # Classes first: another number of them explains all other differences.
        expected = {
            "classes": (num_classes, self.classes),
            "training images": (sizes["train"], self.train),
            "validation images": (sizes.get("val", 0), self.val or 0),
            "test images": (sizes.get("test", 0), self.test),
        }
        for noun, (got, wanted) in expected.items():
            if got != wanted:
                return f"number of {noun} must be {wanted}, got {got}"
        return None


@dataclass(frozen=True)
class Source:
    """One line of the table: everything about a data set that is known before it is read.

    Attributes:
        name: Name on the command line.
        module: Module of ``ltcli.data`` that reads it.
        summary: One sentence for the help text.
        needs_root: Whether it lies in a folder of the user; if not, it comes with the package.
        natural: Whether its own class counts are kept unless a profile is given.
        mean: Mean of each colour channel, 0..1; None to measure the training images.
        std: Standard deviation of each colour channel, 0..1; None to measure them.
        of_files: Whether its images are files of their own, which ``split`` need not decode.
        of_images: Whether ``split`` decodes images of any size out of other files.
        forms: Alternative sets of files that describe it; the first set found is read. Each maps a
            parameter to the published file name under the root, None where it has no such name.
        required: Parameters that must be given.
        options: Parameters that name its columns, its arrays, or the suffix of its paths.
        suffixes: Suffixes of the files that hold the samples, where these are no image files.
        counts: Size of a complete copy of a published data set.
    """

    name: str
    module: str
    summary: str
    needs_root: bool = True
    natural: bool = True
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    of_files: bool = False
    of_images: bool = False
    forms: tuple[Mapping[str, str | None], ...] = ({},)
    required: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    counts: Counts | None = None


def _long_tailed(name: str, counts: Counts) -> Source:
    """Return ImageNet-LT or Places-LT, from the lists of OLTR (CVPR 2019, arXiv 1904.05160)."""
    sizes = f"{counts.train:,} + {counts.val:,} + {counts.test:,}"
    lists: dict[str, str | None] = {
        f"{part}_list": f"{name.replace('-', '_')}_{part}.txt" for part in PARTS
    }
    return Source(
        name.lower(),
        "listed",
        f"{name}: {sizes} photos of {counts.classes:,} classes.",
        of_files=True,
        forms=({**lists, "class_names": None},),
        counts=counts,
    )


def _inaturalist(year: int, counts: Counts) -> Source:
    """Return a year of iNaturalist; results are reported on its official validation images.

    The annotations are the official ones. The lists of 2018 are those of Kang et al., ICLR 2020,
    arXiv 1910.09217; lists of 2017 have no published names, and these follow those of 2018.
    """
    lists = f"iNaturalist{year % 100}"
    sizes = f"{counts.train:,} + {counts.test:,}"
    return Source(
        f"inat{year}",
        "annotations",
        f"iNaturalist {year}: {sizes} photos of {counts.classes:,} classes.",
        # From the code of Kang et al. and the papers after it; BBN takes ImageNet's.
        mean=(0.466, 0.471, 0.380),
        std=(0.195, 0.194, 0.192),
        of_files=True,
        forms=(
            {"train_json": f"train{year}.json", "val_json": f"val{year}.json"},
            {
                "train_list": f"{lists}_train.txt",
                "test_list": f"{lists}_val.txt",
                "class_names": None,
            },
        ),
        counts=counts,
    )


def _cifar(classes: int) -> Source:
    """Return CIFAR-10 or CIFAR-100."""
    return Source(
        f"cifar{classes}",
        "cifar",
        f"CIFAR-{classes}: 50,000 + 10,000 photos of {classes} classes, 32 x 32.",
        natural=False,
        # LDAM-DRW and nearly everybody after it normalise both sets with these CIFAR-10 figures.
        # The deviations are means of each image's own, so they are smaller than over all pixels.
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        counts=Counts(classes, 50_000, None, 10_000),
    )


# Parameters that name the columns of a table.
_COLUMNS = ("path_column", "label_column", "split_column", "group_column")

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _cifar(10),
        _cifar(100),
        Source(
            "fashion-mnist",
            "fashion_mnist",
            "Fashion-MNIST: 60,000 + 10,000 grey pictures of 10 garments, 28 x 28.",
            natural=False,
            counts=Counts(10, 60_000, None, 10_000),
        ),
        Source(
            "digits",
            "digits",
            "UCI digits: 1,797 hand-written digits, 8 x 8; comes with ltcli.",
            needs_root=False,
            natural=False,
        ),
        Source(
            "folder",
            "folder",
            "Your own images: one sub-folder per class, or train/, val/ and test/ of such.",
            of_files=True,
        ),
        Source(
            "list",
            "listed",
            "Your own images: text files of lines 'path label'.",
            of_files=True,
            forms=({"train_list": None, "val_list": None, "test_list": None, "class_names": None},),
            required=("train_list",),
            options=("suffix",),
        ),
        Source(
            "csv",
            "listed",
            "Your own images: a table with a path and a label in each line, and perhaps a split.",
            of_files=True,
            forms=({"table": None},),
            required=("table",),
            options=(*_COLUMNS, "suffix"),
        ),
        Source(
            "inat",
            "annotations",
            "Your own images: annotations in the JSON form of iNaturalist (and COCO).",
            of_files=True,
            forms=({"train_json": None, "val_json": None},),
            required=("train_json",),
        ),
        _long_tailed("ImageNet-LT", Counts(1000, 115_846, 20_000, 50_000)),
        _long_tailed("Places-LT", Counts(365, 62_500, 7_300, 36_500)),
        _inaturalist(2017, Counts(5089, 579_184, None, 95_986)),
        _inaturalist(2018, Counts(8142, 437_513, None, 24_426)),
        Source(
            "parquet",
            "parquet",
            "Images in Parquet files as Hugging Face writes them, with a label in each row.",
            of_images=True,
            options=_COLUMNS,
            suffixes=(".parquet",),
        ),
        Source(
            "embeddings",
            "embeddings",
            "Features of images, of any model: safetensors, npy, npz, Parquet or CSV.",
            forms=({"labels": None, "class_names": None},),
            options=("features_key", "labels_key", "path_column"),
            suffixes=(".safetensors", ".npy", ".npz", ".parquet", ".csv"),
        ),
    )
}

_FORMS = [form for source in SOURCES.values() for form in source.forms]
# Every parameter that names a file beside the root.
FILE_PARAMETERS = tuple(dict.fromkeys(option for form in _FORMS for option in form))
# Every parameter that names a column, an array or a suffix.
OPTION_PARAMETERS = tuple(dict.fromkeys(o for source in SOURCES.values() for o in source.options))


@dataclass(frozen=True)
class Request:
    """The wishes of ``split`` for a source; see the parameters of the same names.

    Attributes:
        source: Name in the table.
        root: Folder or file of the data set; unused where it comes with the package.
        named: Files that describe the data set, by parameter, as the user named them.
        image_size: Side of the images in pixels, where they are decoded to one size; None if the
            user named none.
        max_pixels: Larger images are bad.
        options: Columns, arrays and suffix by parameter, where the user named them.
    """

    source: str
    root: Path = Path()
    named: Mapping[str, str] = field(default_factory=dict)
    download: bool = False
    store: Literal["auto", "images", "files"] = "auto"
    image_size: int | None = None
    max_pixels: int = MAX_PIXELS
    on_bad_image: Literal["fail", "skip"] = "fail"
    partial: bool = False
    verify: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def stored_size(self) -> int:
        """The side of the images in pixels that a split of decoded images has."""
        return self.image_size or STORED_SIZE

    def files(self) -> dict[str, Path]:
        """Return the files that describe the data set, by parameter, or raise DataError."""
        files = files_of(self.source, self.root, self.named)
        for option, path in files.items():
            if not path.is_file():
                raise DataError(path, "no such file", f"name the file with {_flag(option)}")
        return files


def require_options(name: str, root: str | None, given: Collection[str]) -> None:
    """Raise ParamError for an option that a source does not read, and for one that it lacks.

    ``given`` are those parameters that not every source reads.
    """
    source = SOURCES[name]
    if root is None and source.needs_root:
        rule = f"source '{name}' needs --root"
        raise ParamError("split", rule, "name the folder that holds the data set")
    read = {option for form in source.forms for option in form} | set(source.options)
    read |= {"store", "verify"} if source.of_files else set()
    decoded = {"image_size", "max_pixels", "on_bad_image"}
    read |= decoded if source.of_files or source.of_images else set()
    read |= {"partial"} if source.of_files and source.counts else set()
    for option in given:
        if option not in read:
            reads = ", ".join(sorted(map(_flag, read)))
            hint = f"it reads {reads}" if reads else None
            raise ParamError("split", f"source '{name}' does not read {_flag(option)}", hint)
    for option in source.required:
        if option not in given:
            raise ParamError("split", f"source '{name}' needs {_flag(option)}", "name the file")
    files = [option for option in given if option in FILE_PARAMETERS]
    # Lists and annotations describe the same images in two ways; mixing them has no meaning.
    if not any(set(files) <= set(form) for form in source.forms):
        either = " or ".join(_flag(next(iter(form))) for form in source.forms)
        raise ParamError("split", f"source '{name}' reads {either}, got options of both")


def files_of(name: str, root: Path, named: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that describe a data set, by parameter.

    Files that the user did not name lie under their published names in the root, or are missing.
    """
    forms = [form for form in SOURCES[name].forms if set(named) <= set(form)]
    published = [
        {option: root / file for option, file in form.items() if file is not None} for form in forms
    ]
    # Annotations and lists may both lie in a folder; one file is enough to choose a form, so that
    # the others are missed by name.
    there = [files for files in published if any(path.is_file() for path in files.values())]
    return {**(there or published)[0], **{option: Path(path) for option, path in named.items()}}


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
