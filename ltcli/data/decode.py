"""Decode one image file to a square of RGB bytes, or say what is wrong with it.

What an image means is fixed here once: the stored orientation is applied, transparency lies on
white, 16-bit grey is scaled and not clipped, and of an animation the first frame is taken.
"""

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

# Of the shorter side that images in files keep when they are not augmented: 224 of 256 pixels.
CENTRE = 0.875
MAX_PIXELS = 64_000_000
# The content decides, whatever the suffix says. Formats outside this list are never parsed.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class BadImageError(Exception):
    """The bytes are not an image that can be used; the text says why, as half a sentence."""


def decode_image(content: bytes, image_size: int, share: float = 1.0) -> torch.Tensor:
    """Return the centre square of an image, resized with an antialiased bicubic filter.

    This is a resize of the shorter side followed by a centre crop, without a large image in
    between. A square image of the right size keeps its pixels.

    Args:
        content: The whole file.
        image_size: Side of the result in pixels.
        share: Of the shorter side that the square has.

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
