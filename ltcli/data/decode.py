"""One image file decoded to RGB bytes of a network's size, or the reason why it cannot be.

The meaning of an image is fixed here once: the stored orientation is applied, transparency lies on
white, 16-bit grey is scaled and not clipped, and an animation gives its first frame. Metadata and
colour profiles change nothing else, so damage in them does not count.
"""

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from ltcli.artifacts.backbone import Backbone
from ltcli.data.formats import BadImageError, judged, opened
from ltcli.data.source_table import MAX_PIXELS

_MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
# Chunks of PNG that make up its pixels, ISO/IEC 15948; the first frame of an animation is in IDAT.
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# What undoes each orientation of EXIF, by its number.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_Result = TypeVar("_Result")


def decode_image(
    content: bytes, image_size: int, share: float = 1.0, max_pixels: int = MAX_PIXELS
) -> torch.Tensor:
    """Return the centre square of a file's image, uint8 [image_size, image_size, 3], RGB.

    The square has this share, 0..1, of the shorter side, and is resized with an antialiased bicubic
    filter. A square image of the right size keeps its pixels.

    Raises:
        BadImageError: See ``open_image``.
    """
    image = open_image(content, max_pixels)
    width, height = image.size
    side = share * min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # In one step: a large image between resize and crop would only take memory.
    box, size = (left, top, left + side, top + side), (image_size, image_size)
    square = image.resize(size, Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(square, dtype=np.uint8))


def preparation(
    backbone: Backbone, max_pixels: int = MAX_PIXELS
) -> Callable[[bytes], torch.Tensor]:
    """Return the function from a whole file to the input of a network, uint8 [3, H, W].

    It raises BadImageError; see ``open_image``. It can be sent to worker processes.
    """
    if backbone.crop_mode == "box":
        return partial(_boxed, backbone.image_size[0], backbone.crop_share, max_pixels)
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
    return partial(_by_steps, steps, max_pixels)


def as_stored(backbone: Backbone) -> Backbone:
    """Return the record whose ``preparation`` of files gives images as the model's split has them.

    A split of images has their centre squares, and a network that wants others resizes them.
    """
    if not (size := backbone.stored_size):
        return backbone
    return dataclasses.replace(backbone, image_size=size, crop_mode="box", crop_share=1.0)


def _boxed(image_size: int, share: float, max_pixels: int, content: bytes) -> torch.Tensor:
    return decode_image(content, image_size, share, max_pixels).permute(2, 0, 1)


def _by_steps(
    steps: Callable[[Image.Image], torch.Tensor], max_pixels: int, content: bytes
) -> torch.Tensor:
    return steps(open_image(content, max_pixels))


def side_of(path: Path) -> int | None:
    """Return the shorter side of an image in pixels, from its header; None if it has none."""
    with suppress(BadImageError), judged(), path.open("rb") as file, opened(file) as image:
        return min(image.size)
    return None


def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the image of a whole file as RGB; CMYK, palette and one-bit images become RGB.

    Raises:
        BadImageError: The file is empty, of no known format, damaged, larger than ``max_pixels``,
            or has values without a fixed range (floating point).
    """
    return _read(content, _to_rgb, max_pixels)


def grey_bits(content: bytes, max_pixels: int = MAX_PIXELS) -> list[int]:
    """Return the bits that the values of a 16-bit grey image take, [8], [12] or [16]; else [].

    Raises:
        BadImageError: See ``open_image``.
    """
    # Nearly all images are told by their first bytes: JPEG, and PNG of other depth or colour.
    if content.startswith(_JPEG) or (content.startswith(_PNG) and content[24:26] != b"\x10\0"):
        return []

    def bits(image: ImageFile) -> list[int]:
        return [_bits(np.asarray(image))] if image.mode in _MODES_16_BIT else []

    return _read(content, bits, max_pixels)


def _read(content: bytes, finish: Callable[[ImageFile], _Result], max_pixels: int) -> _Result:
    """Return what a function makes of an image whose header alone is read."""
    if not content:
        raise BadImageError("is empty")
    try:
        return _opened(content, finish, max_pixels)
    except BadImageError:
        bare = _without_metadata(content)
        if bare == content:
            raise
    return _opened(bare, finish, max_pixels)


def _opened(content: bytes, finish: Callable[[ImageFile], _Result], max_pixels: int) -> _Result:
    with judged(max_pixels), opened(io.BytesIO(content), max_pixels) as image:
        width, height = image.size
        if width * height > max_pixels:
            rule = f"has {width} x {height} pixels, more than {max_pixels}"
            raise BadImageError(f"{rule} (--max-pixels)")
        return finish(image)


def _without_metadata(content: bytes) -> bytes:
    """Return a PNG with its pixels and its EXIF alone, or another file as it is.

    Pillow refuses the whole file for a colour profile of more than a megabyte, or a wrong checksum.
    """
    if not content.startswith(_PNG):
        return content
    chunks, start = [_PNG], len(_PNG)
    while start < len(content):
        head, body = content[start : start + 8], start + 8
        end = body + int.from_bytes(head[:4]) + 4
        if head[4:] in _PIXEL_CHUNKS or len(head) < 8:
            chunks.append(content[start:end])
        elif head[4:] == b"eXIf":
            exif = content[start + 4 : end - 4]
            chunks.append(head[:4] + exif + struct.pack(">I", zlib.crc32(exif)))
        start = end
    return b"".join(chunks)


def open_pixels(content: bytes, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """Return the pixels of ``open_image``, uint8 [H, W, 3]; of most JPEG files in less time.

    Raises:
        BadImageError: See ``open_image``.
    """

    def pixels(image: ImageFile) -> torch.Tensor:
        # PNG may have its orientation behind the pixels, and torchvision takes WebP that Pillow
        # refuses. Whatever goes wrong, Pillow judges.
        if content.startswith(_JPEG) and image.mode in ("RGB", "L") and _turn(image) is None:
            with suppress(Exception):
                return _by_torchvision(content)
        return torch.from_numpy(np.array(_to_rgb(image)))

    return _read(content, pixels, max_pixels)


def _by_torchvision(content: bytes) -> torch.Tensor:
    """Return the pixels of a JPEG file as they are stored, uint8 [H, W, 3]."""
    from torchvision.io import ImageReadMode

    stored = torch.frombuffer(content, dtype=torch.uint8)
    # The operator itself: torchvision's function around it warns for each image.
    pixels: torch.Tensor = torch.ops.image.decode_jpeg(stored, ImageReadMode.RGB.value, False)
    return pixels.permute(1, 2, 0)


def _to_rgb(image: ImageFile) -> Image.Image:
    image.load()
    turn = _turn(image)
    upright = image if turn is None else image.transpose(turn)
    if upright.mode == "F":
        raise BadImageError("has floating-point pixels, whose range is not known")
    if upright.mode in _MODES_16_BIT:
        return _from_16_bit(upright)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _turn(image: ImageFile) -> Image.Transpose | None:
    """Return how an image is turned or mirrored to be upright, None for an upright one."""
    # Pillow's own exif_transpose writes the rest of the EXIF anew, and fails at an odd field of it.
    with suppress(Exception):
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    most = 2 ** _bits(values) - 1
    # Adding half of the range rounds.
    return Image.fromarray(((values * 255 + most // 2) // most).astype(np.uint8)).convert("RGB")


def _bits(values: np.ndarray[Any, Any]) -> int:
    """Return the bits that grey values take: 8, 12 or 16, as cameras and scanners have."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise BadImageError(f"has grey values from {low} to {high}, outside 0 to 65535")
    return next(bits for bits in (8, 12, 16) if high < 2**bits)
