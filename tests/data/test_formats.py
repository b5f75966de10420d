import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ltcli.data import formats
from ltcli.data.formats import SUFFIXES, fault, is_image, is_none, judged, opened


def encoded(image_format, size=(16, 16)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    modes = {"XBM": "1", "MSP": "1", "PIXAR": "RGB", "GIF": "P"}
    image.convert(modes.get(image_format, "RGB")).save(file, image_format)
    return file.getvalue()


def test_every_suffix_of_a_format_that_is_read_is_known():
    Image.init()
    read = {*formats._COMMON, *formats._OTHERS, "MPO"}
    known = {suffix[1:]: name in read for suffix, name in Image.registered_extensions().items()}
    certain = {suffix for suffix, wanted in known.items() if wanted} - {*formats._UNCERTAIN}
    assert certain - {*SUFFIXES} == set()
    assert not {suffix for suffix, wanted in known.items() if not wanted} & {*SUFFIXES}
    assert not {*SUFFIXES} & {*formats._NO_IMAGES}
    assert not {*SUFFIXES} & {*formats._UNCERTAIN}
    # Ghostscript would run what the file says.
    assert "EPS" not in read


def test_a_format_without_a_signature_is_tried_last_and_by_suffix_alone():
    Image.init()
    blind = {name for name, (_, accept) in Image.OPEN.items() if accept is None}
    assert blind & {*formats._COMMON, *formats._OTHERS} == {"TGA"}
    assert formats._OTHERS[-1] == "TGA"


@pytest.mark.parametrize(
    ("name", "image", "none"),
    [
        ("a.JPG", True, False),
        ("a.b.png", True, False),
        ("a", False, False),
        ("a.jpg/b", False, False),
        ("a.", False, False),
        ("a.foo", False, False),
        ("a.heic", False, False),
        ("a.TXT", False, True),
        ("README", False, True),
        ("README.foo", False, False),
        ("split.safetensors", False, True),
    ],
)
def test_names_that_are_certain_need_no_look(name, image, none):
    assert (is_image(name), is_none(name)) == (image, none)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "AVIF", "JPEG2000", "ICO", "PCX", "XBM"])
@pytest.mark.parametrize("name", ["a", "a.foo", "a.heic"])
def test_an_image_is_one_under_any_name(tmp_path, image_format, name):
    (tmp_path / name).write_bytes(encoded(image_format))
    assert fault(str(tmp_path / name)) is None


def box(brand):
    return b"\0\0\0\x18ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(100)


NEEDS_HEIF = 'is HEIC, which needs pillow-heif: pip install "ltcli[heif]"'
UNKNOWN = "is no image of a known format"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a", b"text", (UNKNOWN, True)),
        ("a.nef", b"text", (UNKNOWN, True)),
        ("a.foo", b"text", (UNKNOWN, False)),
        ("a.foo", b"", (UNKNOWN, False)),
        # What other bytes may pass for, they are not.
        ("a.foo", encoded("TGA"), (UNKNOWN, False)),
        # A signature of an image, whatever the name.
        ("a.foo", box(b"heic"), (NEEDS_HEIF, True)),
        ("a.heic", box(b"mif1"), (NEEDS_HEIF, True)),
        ("a.foo", encoded("PNG")[:20], ("is damaged: Truncated File Read", True)),
        ("a.foo", b"P6 8 x", ("is damaged: invalid literal for int() with base 10: b'x'", True)),
    ],
)
def test_what_is_no_image_has_a_reason_and_may_be_missed(tmp_path, monkeypatch, name, content, why):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats._others.cache_clear()
    (tmp_path / name).write_bytes(content)
    assert fault(str(tmp_path / name)) == why
    formats._others.cache_clear()


def test_a_file_that_cannot_be_opened_may_be_missed(tmp_path):
    why = ("cannot be read: no such file or directory", True)
    assert fault(str(tmp_path / "none.foo")) == why


def test_pillow_without_avif_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(formats, "_others", lambda: ("WEBP",))
    with pytest.raises(
        formats.BadImageError, match=r"^is AVIF, which needs Pillow 11\.3 or later$"
    ):
        opened(io.BytesIO(encoded("AVIF")))


def test_the_plugin_for_heic_is_asked_where_it_is_installed(monkeypatch):
    plugin = types.ModuleType("pillow_heif")
    asked = []
    plugin.register_heif_opener = lambda: asked.append(1)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    formats._others.cache_clear()
    with judged(), opened(io.BytesIO(encoded("AVIF"))) as image:
        assert image.size == (16, 16)
    assert asked == [1]
    # Photos in common formats do not wait for it.
    formats._others.cache_clear()
    with opened(io.BytesIO(encoded("JPEG"))) as image:
        assert image.format == "JPEG"
    assert asked == [1]
    formats._others.cache_clear()


def test_heic_is_read_where_the_plugin_is_installed(tmp_path):
    plugin = pytest.importorskip("pillow_heif")
    formats._others.cache_clear()
    pixels = np.full((16, 24, 3), (200, 30, 30), np.uint8)
    plugin.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=-1)
    assert fault(str(tmp_path / "a.heic")) is None
    with (tmp_path / "a.heic").open("rb") as file, opened(file) as image:
        assert abs(np.asarray(image.convert("RGB")).astype(int) - pixels).max() < 8
