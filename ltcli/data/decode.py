"""One image file decoded to RGB bytes of a network's size, or the reason why it cannot be.

The meaning of an image is fixed here once: the stored orientation is applied, transparency lies on
white, 16-bit grey is scaled and not clipped, and an animation gives its first frame.
"""

import dataclasses
import io
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ltcli.artifacts.backbone import Backbone

# A file of a few kilobytes can claim any size and fill the memory.
MAX_PIXELS = 64_000_000
# The content decides, whatever the suffix says. Formats outside this list are never parsed.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class BadImageError(Exception):
    """The bytes are no usable image; the text says why, as half a sentence."""


def decode_image(content: bytes, image_size: int, share: float = 1.0) -> torch.Tensor:
    """Return the centre square of a file's image, uint8 [image_size, image_size, 3], RGB.

    The square has this share, 0..1, of the shorter side, and is resized with an antialiased bicubic
    filter. A square image of the right size keeps its pixels.

    Raises:
        BadImageError: See ``open_image``.
    """
    image = open_image(content)
    width, height = image.size
    side = share * min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # In one step: a large image between resize and crop would only take memory.
    box, size = (left, top, left + side, top + side), (image_size, image_size)
    square = image.resize(size, Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(square, dtype=np.uint8))


def preparation(backbone: Backbone) -> Callable[[bytes], torch.Tensor]:
    """Return the function from a whole file to the input of a network, uint8 [3, H, W].

    It raises BadImageError; see ``open_image``. It can be sent to worker processes.
    """
    if backbone.crop_mode == "box":
        return partial(_boxed, backbone.image_size[0], backbone.crop_share)
    from timm.data import create_transform

    steps = create_transform(
        input_size=(3, *backbone.image_size),
        interpolation=backbone.interpolation,
        crop_pct=backbone.crop_share,
        crop_mode=backbone.crop_mode,
        # The colour of the border, where the crop mode adds one.
        mean=backbone.mean,
        normalize=False,
    )
    return partial(_by_steps, steps)


def as_stored(backbone: Backbone) -> Backbone:
    """Return the record whose ``preparation`` of files gives images as the model's split has them.

    A split of images has their centre squares, and a network that wants others resizes them.
    """
    if not (size := backbone.stored_size):
        return backbone
    return dataclasses.replace(backbone, image_size=size, crop_mode="box", crop_share=1.0)


def _boxed(image_size: int, share: float, content: bytes) -> torch.Tensor:
    return decode_image(content, image_size, share).permute(2, 0, 1)


def _by_steps(steps: Callable[[Image.Image], torch.Tensor], content: bytes) -> torch.Tensor:
    return steps(open_image(content))


def side_of(path: Path) -> int | None:
    """Return the shorter side of an image in pixels, from its header; None if it has none."""
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            return min(image.size)
    return None


def open_image(content: bytes) -> Image.Image:
    """Return the image of a whole file as RGB; CMYK, palette and one-bit images become RGB.

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


def open_pixels(content: bytes) -> torch.Tensor:
    """Return the pixels of ``open_image``, uint8 [H, W, 3]; of most JPEG files in less time.

    Raises:
        BadImageError: See ``open_image``.
    """
    pixels = _by_torchvision(content)
    return torch.from_numpy(np.array(open_image(content))) if pixels is None else pixels


def _by_torchvision(content: bytes) -> torch.Tensor | None:
    """Return the pixels of an upright JPEG file, uint8 [H, W, 3]; None for all other files."""
    # PNG may have its orientation behind the pixels, and torchvision takes WebP that Pillow
    # refuses. Whatever goes wrong, Pillow judges.
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            if upright and image.mode in ("RGB", "L") and image.width * image.height <= MAX_PIXELS:
                from torchvision.io import ImageReadMode

                stored = torch.frombuffer(content, dtype=torch.uint8)
                # The operator itself: torchvision's function around it warns for each image.
                pixels: torch.Tensor = torch.ops.image.decode_jpeg(
                    stored, ImageReadMode.RGB.value, False
                )
                return pixels.permute(1, 2, 0)
    return None


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
