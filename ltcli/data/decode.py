"""Read one image file and decode it to a square of RGB bytes, or say what is wrong with it.

What an image means is fixed here once: the stored orientation is applied, transparency lies on
white, 16-bit grey is scaled and not clipped, and of an animation the first frame is taken.
"""

import errno
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ltcli.core.errors import cause
from ltcli.core.files import open_regular

# Part of the shorter side that images in files keep in evaluation: 224 of 256 pixels, as in papers.
CENTRE = 0.875
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 256 * 2**20
# The content decides, whatever the suffix says. Formats outside this list are never parsed.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class BadImageError(Exception):
    """A file holds no image that can be used; the text says why, as half a sentence."""


def file_size(path: str) -> int:
    """Return the size in bytes of a file that ``read_file`` would read, without opening it.

    Raises:
        BadImageError: It is missing, empty, too large, a link, or no regular file.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise BadImageError(f"cannot be read: {cause(error)}") from error
    if stat.S_ISLNK(status.st_mode):
        raise BadImageError("is a link, and links are not followed")
    if not stat.S_ISREG(status.st_mode):
        raise BadImageError("cannot be read: not a regular file")
    if status.st_size == 0:
        raise BadImageError("is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise BadImageError(f"is larger than {MAX_FILE_BYTES} bytes")
    return status.st_size


def read_file(path: Path) -> bytes:
    """Return the content of a regular file, refusing what took its place since it was listed.

    Raises:
        BadImageError: It is a link or no regular file, is too large, or cannot be read.
    """
    try:
        with open_regular(path, os.O_NOFOLLOW) as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise BadImageError(f"is larger than {MAX_FILE_BYTES} bytes")
            # A file may grow while it is read; what comes after the limit is not waited for.
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        # O_NOFOLLOW reports a link as a loop of links.
        if error.errno == errno.ELOOP:
            raise BadImageError("is a link, and links are not followed") from error
        raise BadImageError(f"cannot be read: {cause(error)}") from error


def decode_image(content: bytes, image_size: int, share: float = 1.0) -> torch.Tensor:
    """Return the centre square of an image, resized with an antialiased bicubic filter.

    The result is that of a resize of the shorter side and then a centre crop, without a large
    image in between. A square image of the right size keeps its pixels.

    Args:
        content: The whole file.
        image_size: Side of the result in pixels.
        share: Part of the shorter side that the square covers.

    Returns:
        uint8 [image_size, image_size, 3], RGB.

    Raises:
        BadImageError: See ``open_image``.
    """
    image = open_image(content)
    width, height = image.size
    side = share * min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.resize(
        (image_size, image_size),
        Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
    )
    return torch.from_numpy(np.array(square, dtype=np.uint8))


def open_image(content: bytes) -> Image.Image:
    """Decode an image to RGB; CMYK, palette and one-bit images become RGB.

    Args:
        content: The whole file.

    Raises:
        BadImageError: The file is empty, of no known format, damaged, larger than 64 million
            pixels, or has values without a fixed range (floating point).
    """
    if not content:
        raise BadImageError("is empty")
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, and of sizes that are checked here.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return _to_rgb(image)
        except (BadImageError, MemoryError):
            raise
        except UnidentifiedImageError:
            raise BadImageError("is no image of a known format") from None
        except Image.DecompressionBombError:
            raise BadImageError(f"has more than {MAX_PIXELS} pixels") from None
        except Exception as error:
            # Pillow's decoders meet damage with a dozen exception types, struct.error to KeyError.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadImageError(f"is damaged: {reason[:200]}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"has {width} x {height} pixels, more than {MAX_PIXELS}")
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise BadImageError("has floating-point pixels, whose range is not known")
    if upright.mode in _MODES_16_BIT:
        return _from_16_bit(upright)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise BadImageError(f"has grey values from {low} to {high}, outside 0 to 65535")
    # 257 = 65535 / 255; adding half of it rounds.
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
