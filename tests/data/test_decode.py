import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from timm.data import create_transform

from ltcli.data import decode
from ltcli.data.decode import (
    as_stored,
    decode_image,
    grey_bits,
    open_image,
    open_pixels,
    preparation,
    side_of,
)
from ltcli.data.formats import BadImageError
from ltcli.models import small_images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, image_format, **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def quadrants():
    """16 x 16, red, green / blue, white, so that every orientation differs."""
    image = np.empty((16, 16, 3), np.uint8)
    image[:8, :8], image[:8, 8:], image[8:, :8], image[8:, 8:] = RED, GREEN, BLUE, WHITE
    return image


def chunk(name, data):
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, bit_depth, colour_type, rows, extra=b""):
    """Return a PNG made by hand, with a header that may lie."""

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def refuse(content):
    with pytest.raises(BadImageError) as caught:
        decode_image(content, 16)
    return str(caught.value)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_square_image_of_the_right_size_keeps_its_pixels(image_format):
    pixels = noise(16, 16)
    options = {"lossless": True} if image_format == "WEBP" else {}
    image = decode_image(encoded(Image.fromarray(pixels), image_format, **options), 16)
    assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (16, 16, 3), True)
    assert (image.numpy() == pixels).all()


@pytest.mark.parametrize(("height", "width"), [(16, 40), (40, 16), (16, 17)])
def test_the_centre_square_is_kept(height, width):
    pixels = noise(height, width)
    top, left = (height - 16) // 2, (width - 16) // 2
    image = decode_image(encoded(Image.fromarray(pixels), "PNG"), 16)
    assert (image.numpy() == pixels[top : top + 16, left : left + 16]).all()


def test_reducing_is_antialiased():
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    image = decode_image(encoded(Image.fromarray(board), "PNG"), 16)
    # Taking every eighth pixel would give pure black or white.
    assert ((image[2:-2, 2:-2].int() - 127).abs() < 5).all()


def test_an_extreme_aspect_ratio_takes_no_more_memory_than_a_square():
    image = decode_image(encoded(Image.new("RGB", (1, 60_000), RED), "PNG"), 512)
    assert image.shape == (512, 512, 3)
    assert (image == torch.tensor(RED, dtype=torch.uint8)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_the_stored_orientation_is_applied(orientation, image_format):
    # What has to be done to upright pixels so that the orientation undoes it.
    stored = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](quadrants())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if image_format == "JPEG" else {}
    content = encoded(
        Image.fromarray(np.ascontiguousarray(stored)), image_format, exif=exif, **options
    )
    difference = decode_image(content, 16).int() - torch.from_numpy(quadrants()).int()
    assert difference.abs().max() <= 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(mode):
    source = Image.new("RGB", (16, 16), WHITE).convert(mode)
    source.paste(Image.new("RGB", (8, 16), (0, 0, 0)).convert(mode))
    image = decode_image(encoded(source, "TIFF"), 16)
    assert (image[:, :8] == 0).all()
    assert (image[:, 8:] == 255).all()


def test_a_cmyk_jpeg_has_its_colours():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image = decode_image(encoded(red, "JPEG", quality=100), 16)
    assert (image[..., 0] > 245).all()
    assert (image[..., 1:] < 10).all()


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_white(image_format):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8] = (0, 0, 255, 255)
    pixels[8:12] = (255, 0, 0, 51)
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    image = decode_image(encoded(Image.fromarray(pixels), image_format, **options), 16)
    assert image[0, 0].tolist() == list(BLUE)
    assert image[9, 0].tolist() == [255, 204, 204]
    assert image[15, 0].tolist() == list(WHITE)


def test_grey_with_alpha_and_a_transparent_palette_entry_lie_on_white():
    grey = np.zeros((16, 16, 2), np.uint8)
    grey[..., 1] = 51
    image = decode_image(encoded(Image.fromarray(grey, "LA"), "PNG"), 16)
    assert image.unique().tolist() == [204]
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 1)
    for transparency in (0, b"\x00\xff"):
        image = decode_image(encoded(palette, "PNG", transparency=transparency), 16)
        assert image[0, 0].tolist() == list(BLUE)
        assert image[5, 5].tolist() == list(WHITE)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(image_format):
    values = np.array([0, 128, 129, 257, 1000, 32768, 65406, 65407, 65535] + [0] * 7, np.uint16)
    pixels = np.tile(values, (16, 1))
    image = decode_image(encoded(Image.fromarray(pixels), image_format), 16)
    expected = np.rint(values / 257).astype(int).tolist()
    assert expected[:9] == [0, 0, 1, 1, 4, 128, 254, 255, 255]
    for channel in range(3):
        assert image[7, :, channel].tolist() == expected


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize(("bits", "most"), [(8, 255), (12, 4095), (16, 65535)])
def test_sixteen_bit_grey_is_scaled_by_the_bits_that_its_values_take(image_format, bits, most):
    values = np.linspace(0, most, 256).astype(np.uint16).reshape(16, 16)
    content = encoded(Image.fromarray(values), image_format)
    image = decode_image(content, 16)
    # By hand: 12 bits gave 17 levels, and 8 bits two, where the range was always that of 16.
    assert (image[..., 0].numpy() == np.rint(values * 255.0 / most)).all()
    assert len(image.unique()) == 256
    assert grey_bits(content) == [bits]
    above = encoded(Image.fromarray(values + np.uint16(most < 65535)), image_format)
    assert grey_bits(above) == [{8: 12, 12: 16, 16: 16}[bits]]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "GIF"])
def test_other_images_have_no_range_to_choose(image_format):
    assert grey_bits(encoded(Image.fromarray(noise(8, 8, 1)), image_format)) == []
    assert grey_bits(encoded(Image.fromarray(noise(8, 8)), image_format)) == []


def test_images_of_any_size_are_taken_where_wanted(monkeypatch):
    # Pillow refuses twice its limit, which is one for the process, and not ours to lift.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = encoded(Image.fromarray(noise(20, 20)), "PNG")
    assert open_image(content, 400).size == (20, 20)
    assert preparation(SMALL, 400)(content).shape == (3, 20, 20)
    with pytest.raises(
        BadImageError, match=r"^has 20 x 20 pixels, more than 399 \(--max-pixels\)$"
    ):
        decode_image(content, 16, max_pixels=399)
    assert Image.MAX_IMAGE_PIXELS == 100
    nested = encoded(Image.fromarray(noise(256, 256)), "ICO", sizes=[(256, 256)])
    with pytest.raises(BadImageError, match=r"^has more than 99 pixels \(--max-pixels\)$"):
        decode_image(nested, 16, max_pixels=99)


def test_sixteen_bit_colour_is_scaled():
    row = b"\0" + struct.pack(">3H", 65535, 32768, 256) * 16
    image = decode_image(png(16, 16, 16, 2, row * 16), 16)
    assert image[3, 3].tolist() == [255, 128, 1]


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(image_format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if image_format == "WEBP" else {}
    content = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert decode_image(content, 16).unique(dim=0).flatten(0, 1).unique(dim=0).tolist() == [[*RED]]


def exif_of(*entries):
    """Return EXIF of one folder of 12-byte entries."""
    count = struct.pack("<H", len(entries))
    return b"II*\0" + struct.pack("<I", 8) + count + b"".join(entries) + bytes(4)


SIX = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)


@pytest.mark.parametrize(
    ("entries", "turned"),
    [
        # A field without content, an orientation that is none, and one of the wrong type.
        ((SIX, struct.pack("<HHII", 0x0213, 2, 1, 0)), True),
        ((SIX, struct.pack("<HHII", 0x011A, 5, 1, 9999)), True),
        ((struct.pack("<HHIHH", 0x0112, 3, 1, 99, 0),), False),
        ((struct.pack("<HHII", 0x0112, 2, 4, 0x41414141),), False),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_is_no_damage(image_format, entries, turned):
    options = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    exif = b"Exif\0\0" + exif_of(*entries)
    image = Image.fromarray(np.ascontiguousarray(np.rot90(quadrants()) if turned else quadrants()))
    content = encoded(image, image_format, exif=exif, **options[image_format])
    difference = decode_image(content, 16).int() - torch.from_numpy(quadrants()).int()
    assert difference.abs().max() <= 8


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_damage_in_metadata_never_makes_good_pixels_bad(image_format):
    random = np.random.default_rng(2)
    exif = Image.Exif()
    exif[0x010F], exif[0x011A] = "maker", 72.0
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(noise(16, 16))
    original = encoded(image, image_format, exif=exif, icc_profile=profile)
    pixels = decode_image(original, 16)
    # Pillow compresses the profile of a PNG, and stores the others as they are.
    first, *_ = positions = [original.find(exif.tobytes()[6:]), original.find(profile[36:200])]
    for start in positions[: 1 if image_format == "PNG" else 2]:
        assert first > 0 < start
        for _ in range(60):
            content = bytearray(original)
            for position in random.integers(start, start + len(exif.tobytes()) - 6, 2):
                # All but the orientation, of which the file has none.
                content[position] = random.integers(0, 256)
            if b"\x12\x01" not in content and b"\x01\x12" not in content:
                assert decode_image(bytes(content), 16).equal(pixels)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"iCCP", b"name\0\1" + zlib.compress(b"x")),
        chunk(b"zTXt", b"name\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"eXIf", b"no exif"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"!",
        chunk(b"tIME", b""),
    ],
    ids=["large profile", "odd profile", "large text", "exif", "checksum", "short"],
)
def test_odd_chunks_beside_the_pixels_of_a_png_are_no_damage(extra):
    pixels = noise(16, 16)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    for turn, times in ((b"", 0), (chunk(b"eXIf", exif_of(SIX)), -1)):
        content = png(16, 16, 8, 2, rows, extra + turn)
        assert (decode_image(content, 16).numpy() == np.rot90(pixels, times)).all()
    # Damage to the pixels stays damage.
    assert refuse(png(16, 16, 8, 2, rows[:-99], extra)).startswith("is damaged: ")
    assert refuse(png(16, 16, 8, 2, rows, extra)[:-30]).startswith("is damaged: ")


def test_odd_metadata_raises_no_warning():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03"
    assert decode_image(encoded(Image.new("RGB", (16, 16)), "JPEG", exif=exif), 16).sum() == 0
    # A palette with transparency in bytes warns when converted.
    palette = encoded(Image.new("P", (16, 16)), "PNG", transparency=bytes(range(256)))
    assert decode_image(palette, 16).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no image at all, but some text\n" * 10, "is no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image of a known format"),
        (
            encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
            "has floating-point pixels, whose range is not known",
        ),
        (
            encoded(Image.fromarray(np.full((4, 4), 65536, np.int32)), "TIFF"),
            "has grey values from 65536 to 65536, outside 0 to 65535",
        ),
        (
            encoded(Image.fromarray(np.full((4, 4), -1, np.int32)), "TIFF"),
            "has grey values from -1 to -1, outside 0 to 65535",
        ),
        (png(8001, 8000, 1, 0, b""), "has 8001 x 8000 pixels, more than 64000000 (--max-pixels)"),
        (png(20_000, 20_000, 1, 0, b""), "has more than 64000000 pixels (--max-pixels)"),
        (
            encoded(Image.fromarray(noise(16, 16)), "BMP")[:-1],
            "is damaged: image file is truncated (47 bytes not processed)",
        ),
    ],
    ids=["empty", "text", "eps", "svg", "float", "33-bit", "negative", "64-Mpx", "bomb", "cut-bmp"],
)
def test_what_is_no_usable_image_is_refused_with_a_reason(content, reason):
    assert refuse(content) == reason


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_half_an_image_is_refused(image_format):
    content = encoded(Image.fromarray(noise(40, 60)), image_format)
    assert decode_image(content, 16).shape == (16, 16, 3)
    assert refuse(content[: len(content) // 2]).startswith("is damaged: ")


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "TIFF", "BMP", "PPM"])
def test_one_missing_byte_is_noticed_where_the_format_has_no_trailer(image_format):
    content = encoded(Image.fromarray(noise(40, 60)), image_format)
    assert refuse(content[:-1]).startswith("is damaged: ")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_flipped_bits_give_an_image_or_a_reason(image_format):
    random = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if image_format == "GIF" else {"exif": exif}
    original = encoded(Image.fromarray(noise(20, 30)), image_format, **options)
    reasons = []
    for _ in range(150):
        content = bytearray(original)
        for position in random.integers(0, len(content), 2):
            content[position] ^= 1 << int(random.integers(8))
        try:
            image = decode_image(bytes(content), 16)
        except BadImageError as error:
            reasons.append(str(error))
        else:
            assert (image.dtype, image.shape) == (torch.uint8, (16, 16, 3))
    assert reasons
    assert all(reason.startswith(("is ", "has ")) for reason in reasons)


def test_a_share_of_the_shorter_side_is_the_centre_alone():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)
    # Half of 40 rows: 20 around the middle, as of the columns.
    centre = Image.fromarray(pixels[10:30, 22:42])
    assert decode_image(content_of(Image.fromarray(pixels)), 20, 0.5).numpy().tolist() == (
        np.asarray(centre).tolist()
    )
    whole = decode_image(content_of(Image.fromarray(pixels)), 20)
    assert whole.equal(decode_image(content_of(Image.fromarray(pixels)), 20, 1.0))


def content_of(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


SMALL = small_images.backbone("resnet20", image_size=(20, 20), in_files=True)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
@pytest.mark.parametrize("shape", [(50, 71), (33, 20)], ids=str)
def test_files_are_prepared_exactly_as_by_timm(mode, interpolation, size, shape):
    how = {"interpolation": interpolation, "crop_mode": mode}
    record = replace(SMALL, image_size=size, crop_share=0.9, **how)
    image = Image.fromarray(noise(*shape))
    made = preparation(record)(encoded(image, "PNG"))
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (record.mean, record.std))
    steps = create_transform((3, *size), crop_pct=0.9, mean=record.mean, std=record.std, **how)
    assert made.dtype == torch.uint8
    torch.testing.assert_close((made / 255 - mean) / std, steps(image))


def test_networks_for_small_images_get_one_resized_square():
    content = encoded(Image.fromarray(noise(50, 71)), "PNG")
    made = preparation(SMALL)(content)
    assert made.permute(1, 2, 0).equal(decode_image(content, 20, 0.875))
    # A split of images holds the whole square, which a network of timm gets resized.
    record = replace(SMALL, crop_mode="center", stored_size=(16, 16))
    assert preparation(as_stored(record))(content).permute(1, 2, 0).equal(decode_image(content, 16))
    assert as_stored(SMALL) is SMALL


def test_the_shorter_side_of_a_file_is_read_from_its_header(tmp_path):
    Image.fromarray(noise(50, 71)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    names = ("a.png", "b.png", "c.png")
    assert [side_of(tmp_path / name) for name in names] == [50, None, None]


def outcome(opened, content):
    """Pixels of a file, or the reason why there are none."""
    try:
        return torch.from_numpy(np.asarray(opened(content)).copy())
    except BadImageError as error:
        return str(error)


def agree(content):
    """Compare pixels or reason with those of Pillow alone; return whether there are pixels."""
    made, expected = outcome(open_pixels, content), outcome(open_image, content)
    if isinstance(expected, str):
        assert made == expected
        return False
    assert made.dtype == torch.uint8
    assert made.equal(expected)
    return True


# Smooth, so that subsampled colours and the coefficients of a JPEG are no mere noise.
PHOTO = Image.fromarray(noise(5, 7)).resize((53, 37), Image.Resampling.BICUBIC)
OF_TORCHVISION = {
    "plain": (PHOTO, {}),
    "progressive": (PHOTO, {"progressive": True}),
    "full colours": (PHOTO, {"subsampling": 0}),
    "half colours": (PHOTO, {"subsampling": 1}),
    "rgb": (PHOTO, {"keep_rgb": True}),
    "restarts": (PHOTO, {"restart_marker_blocks": 2}),
    "coarse": (PHOTO, {"quality": 20}),
    "grey": (PHOTO.convert("L"), {}),
}


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_torchvision_decodes_jpeg_files_to_the_pixels_of_pillow(name, monkeypatch):
    image, options = OF_TORCHVISION[name]
    content = encoded(image, "JPEG", **options)
    assert agree(content)
    monkeypatch.setattr(decode, "_to_rgb", None)
    assert open_pixels(content).shape == (37, 53, 3)


@pytest.mark.parametrize("orientation", range(9))
def test_pixels_are_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image_format in ("JPEG", "PNG", "WEBP"):
        assert agree(encoded(PHOTO, image_format, exif=exif))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_pixels_of_other_formats_are_those_of_pillow(image_format):
    assert agree(encoded(PHOTO, image_format))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA", "I;16"])
def test_pixels_of_other_modes_are_those_of_pillow(mode):
    source = PHOTO.convert("L") if mode == "I;16" else PHOTO
    assert agree(encoded(source.convert(mode), "TIFF"))
    if mode == "CMYK":
        assert agree(encoded(source.convert(mode), "JPEG"))


@pytest.mark.parametrize("name", ["plain", "progressive", "grey"])
def test_a_damaged_jpeg_is_judged_as_by_pillow(name):
    image, options = OF_TORCHVISION[name]
    exif = Image.Exif()
    exif[0x010E] = "upright"
    content = encoded(image, "JPEG", exif=exif, **options)
    random = np.random.default_rng(0)
    cut = [content[:end] for end in range(1, len(content), 7)]
    assert not any(agree(part) for part in [*cut, content[:-1]])
    assert agree(content + b"behind the end")
    kept = []
    for _ in range(150):
        flipped = bytearray(content)
        for position in random.integers(0, len(content), 2):
            flipped[position] ^= 1 << int(random.integers(8))
        kept.append(agree(bytes(flipped)))
    assert 0 < sum(kept) < len(kept)


def test_a_jpeg_that_is_too_large_is_refused_before_it_is_decoded(monkeypatch):
    content = encoded(PHOTO, "JPEG")
    # Of its failures, only one of the test itself goes through.
    monkeypatch.setattr(torch.ops.image, "decode_jpeg", lambda *_: pytest.fail("it is decoded"))
    with pytest.raises(BadImageError) as caught:
        open_pixels(content, 37 * 53 - 1)
    assert str(caught.value) == "has 53 x 37 pixels, more than 1960 (--max-pixels)"


def test_without_torchvision_s_decoder_pillow_decodes(monkeypatch):
    monkeypatch.setattr(torch.ops.image, "decode_jpeg", None)
    assert agree(encoded(PHOTO, "JPEG"))
