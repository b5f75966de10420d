"""Which files are images: by suffix where that is certain, else by what Pillow finds in them."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, TYPE_CHECKING

from ltcli.core.errors import cause
from ltcli.data.source_table import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# Pillow loads these at once, and nearly all files are one of them.
_COMMON = ("JPEG", "PNG", "BMP", "GIF", "PPM")
# Missing are EPS, which starts Ghostscript, formats that Pillow names and does not decode, and
# those that have no signature, so that any bytes may pass for them; TGA is one, and too common.
_OTHERS = (
    *("WEBP", "TIFF", "AVIF", "HEIF", "JPEG2000", "ICO", "CUR", "ICNS", "PSD", "QOI", "DIB"),
    *("PCX", "DCX", "DDS", "SGI", "SUN", "FITS", "FLI", "XBM", "XPM", "MSP", "PIXAR", "BLP"),
    *("FTEX", "GBR", "MCIDAS", "XVTHUMB", "TGA"),
)


def _words(text: str) -> dict[str, None]:
    # Looked up as in a set, and in the order of the text.
    return dict.fromkeys(text.split())


# All suffixes of these formats, the most common first; the content of a file decides in the end.
SUFFIXES = _words(
    "jpg jpeg jpe jfif mpo png apng bmp dib gif webp tif tiff pbm pgm ppm pnm pfm jp2 j2k jpc jpf"
    " jpx j2c ico cur icns psd qoi pcx dcx dds sgi rgb rgba bw ras fit fits fli flc xbm xpm msp pxr"
    " blp ftc ftu gbr tga icb vda vst"
)
# Images that Pillow reads in some versions, with a plugin, or not at all.
_UNCERTAIN = _words(
    "avif avifs heic heics heif heifs hif jxl dcm raw dng cr2 cr3 nef arw orf rw2 raf pef srw"
)
# Never opened: what lies beside images by the thousand, or must not be taken for an image.
_NO_IMAGES = _words(
    "txt csv tsv json jsonl md rst xml html htm yaml yml toml ini cfg log py sh ipynb mat npy npz"
    " pkl parquet arrow h5 hdf5 db lmdb zip tar gz tgz bz2 xz 7z rar pdf svg eps ps ai doc docx xls"
    " xlsx mp4 avi mov mkv webm wav mp3 safetensors lock pt pth onnx tmp bak md5 sha1 sha256"
)
_NAMES = ("readme", "license", "licence", "makefile")
_UNKNOWN = "is no image of a known format"
# Brands of the ISO base media format, ISO/IEC 23008-12, and what their images need.
_NEEDS = {
    (b"avif", b"avis"): "is AVIF, which needs Pillow 11.3 or later",
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"): (
        'is HEIC, which needs pillow-heif: pip install "ltcli[heif]"'
    ),
}
_LIMIT = threading.Lock()


class BadImageError(Exception):
    """The bytes are no usable image; the text says why, as half a sentence."""


def is_image(name: str) -> bool:
    """Return whether a file of this name counts as an image, whatever it holds."""
    return _suffix(name) in SUFFIXES


def is_none(name: str) -> bool:
    """Return whether a file of this name counts as no image, whatever it holds."""
    return _suffix(name) in _NO_IMAGES or name.lower() in _NAMES


def fault(path: str) -> tuple[str, bool] | None:
    """Return why a file of any name is no image, and whether it may be missed; None for an image.

    The header alone is read. Files without a suffix, and with one of an image, may be missed.
    """
    try:
        with open(path, "rb") as file, judged(), opened(file) as image:
            # Other bytes may pass for TGA, which has no signature.
            if image.format != "TGA":
                return None
            raise BadImageError(_UNKNOWN)
    except BadImageError as error:
        return str(error), str(error) != _UNKNOWN or _suffix(path) in {"", *_UNCERTAIN}
    except OSError as error:
        return f"cannot be read: {cause(error)}", True


@contextmanager
def judged(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Turn whatever Pillow raises at an image, and no lack of memory, into a BadImageError."""
    from PIL.Image import DecompressionBombError

    with warnings.catch_warnings():
        # Pillow warns of odd metadata, and of sizes that are checked elsewhere.
        warnings.simplefilter("ignore")
        try:
            yield
        except (BadImageError, MemoryError):
            raise
        except DecompressionBombError:
            raise BadImageError(f"has more than {max_pixels} pixels (--max-pixels)") from None
        except Exception as error:
            # Pillow's decoders meet damage with a dozen exception types, struct.error to KeyError.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadImageError(f"is damaged: {reason[:200]}") from error


def opened(file: IO[bytes], max_pixels: int = MAX_PIXELS) -> "ImageFile":
    """Return an image of any known format, of which the header alone is read, within ``judged``.

    Raises:
        BadImageError: The format is not known, or needs a package that is not installed.
    """
    from PIL import UnidentifiedImageError

    head = file.read(12)
    for formats in (lambda: _COMMON, _others):
        with suppress(UnidentifiedImageError):
            return _open(file, formats(), max_pixels)
    brand = head[8:] if head[4:8] == b"ftyp" else b""
    raise BadImageError(next((rule for known, rule in _NEEDS.items() if brand in known), _UNKNOWN))


@cache
def _others() -> tuple[str, ...]:
    """Return the less common formats that this machine reads; it takes a tenth of a second."""
    from PIL import Image

    Image.init()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    return tuple(name for name in _OTHERS if name in Image.OPEN)


def _open(file: IO[bytes], formats: tuple[str, ...], max_pixels: int) -> "ImageFile":
    from PIL import Image

    # Pillow's own limit is one for the process, so it is moved for the header alone; icons are
    # decoded with it. Pillow refuses twice the limit, and those between are refused by name.
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            return Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _suffix(name: str) -> str:
    # Several times faster than splitext, and there may be a million names.
    _, dot, suffix = name.rpartition(".")
    return suffix.lower() if dot and "/" not in suffix else ""
