from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from privface.errors import DataError, ImageError, ImageTooLargeError, OutputError
from privface.images import (
    WRITTEN_SUFFIXES,
    decode_image,
    encode_image,
    file_key,
    list_images,
    to_pixels,
    to_unit,
    write_atomic,
)


@pytest.fixture
def photo() -> np.ndarray:
    ramp = np.linspace(0, 255, 24)
    return np.stack(
        [np.add.outer(ramp, 0 * ramp), np.add.outer(0 * ramp, ramp), np.full((24, 24), 90)], 2
    ).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_lossless_formats_keep_every_pixel_and_lossy_ones_stay_near(photo):
    for suffix in (".png", ".bmp", ".tif", ".PNG"):
        np.testing.assert_array_equal(decode_image(encode_image(photo, suffix)), photo)
    for suffix in (".jpg", ".webp"):  # WebP stores chroma at half resolution
        assert np.abs(decode_image(encode_image(photo, suffix)).astype(int) - photo).mean() < 4
    with pytest.raises(ImageError, match=r"Cannot write '\.gif' images"):
        encode_image(photo, ".gif")


def test_modes_are_converted(photo):
    colour = Image.fromarray(photo)
    grey = np.asarray(colour.convert("L"))
    np.testing.assert_array_equal(decode_image(encoded(colour.convert("L"), "PNG"))[..., 1], grey)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode_image(encoded(deep, "PNG"))[..., 0], grey)
    assert decode_image(encoded(colour.convert("1"), "PNG")).shape == (24, 24, 3)
    assert np.abs(decode_image(encoded(colour.convert("CMYK"), "TIFF")).astype(int) - photo).max() <= 2
    clear = np.dstack([photo, np.zeros((24, 24), np.uint8)])
    assert (decode_image(encoded(Image.fromarray(clear), "PNG")) == 255).all(), "alpha lies over white"


def test_orientation_is_applied(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = decode_image(encoded(Image.fromarray(photo[:12]), "PNG", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(photo[:12], -1))


def with_secrets(pixels: np.ndarray, form: str) -> bytes:
    """A photo with secrets in every place that its format has for them."""
    exif = Image.Exif()
    exif[0x010E] = "SECRET-caption"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 29: "SECRET-gps-date"})
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "SECRET-text")
    info.add_itxt("XML:com.adobe.xmp", "SECRET-xmp")
    buffer, thumbnail = io.BytesIO(), io.BytesIO()
    more = {"comment": b"SECRET-comment", "xmp": b"<x:xmpmeta>SECRET-xmp</x:xmpmeta>", "pnginfo": info}
    Image.fromarray(pixels).save(buffer, form, exif=exif, icc_profile=b"SECRET-icc" * 20, **more)
    data = buffer.getvalue()
    if form == "JPEG":
        Image.new("RGB", (8, 8)).save(thumbnail, "JPEG", comment=b"SECRET-thumbnail")
        app = b"SECRET-app13" + thumbnail.getvalue()
        data = data[:2] + b"\xff\xed" + struct.pack(">H", len(app) + 2) + app + data[2:]
    return data + b"SECRET-trailer"


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("suffix", WRITTEN_SUFFIXES)
def test_nothing_of_the_file_but_pixels_is_written(photo, form, suffix):
    planted = with_secrets(photo, form)
    assert planted.count(b"SECRET") >= 5
    written = encode_image(decode_image(planted), suffix)
    assert b"SECRET" not in written
    assert b"Exif" not in written
    with Image.open(io.BytesIO(written)) as image:
        assert not image.getexif() or suffix in {".tif", ".tiff"}, "TIFF keeps its own layout tags there"
        assert not {"exif", "xmp", "comment", "icc_profile", "Comment"} & set(image.info)
    if suffix == ".png":
        chunks, at = set(), 8
        while at < len(written):
            chunks.add(written[at + 4 : at + 8])
            at += 12 + struct.unpack(">I", written[at : at + 4])[0]
        assert chunks == {b"IHDR", b"IDAT", b"IEND"}


def test_every_truncation_is_an_image_error(photo):
    """A decoder may leak any exception on damaged input; none may pass."""
    undecodable = "not an image that can be decoded"
    for data, told in (
        (b"", r"empty \(0 bytes\)"),
        (b"hello", undecodable),
        (b"\x89PNG\r\n\x1a\n", undecodable),
        (b"\xff\xd8\xff\xe0\x00", undecodable),
    ):
        with pytest.raises(ImageError, match=told):
            decode_image(data)
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tif"):
        whole = encode_image(photo, suffix)
        for share in (0.1, 0.4, 0.7):
            with pytest.raises(ImageError):
                decode_image(whole[: int(len(whole) * share)])


def test_pixel_limit_is_checked_before_decoding_and_a_missing_file_is_named(photo, tmp_path):
    with pytest.raises(ImageTooLargeError, match=r"24 x 24 = 576 pixels, above the limit of 500"):
        decode_image(encode_image(photo, ".png")[:60], max_pixels=500)
    with pytest.raises(ImageError, match=r"none\.png: cannot be read \(No such file"):
        decode_image(tmp_path / "none.png")


def test_unit_and_pixels_are_inverse():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    unit = to_unit(pixels)
    assert unit.shape == (1, 3, 16, 16)
    assert unit.dtype == np.float32
    assert (unit.min(), unit.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(to_pixels(unit), pixels)
    np.testing.assert_array_equal(to_pixels(np.full((3, 1, 1), 1.7, np.float32)), [[[255] * 3]])


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "a.bin"
    write_atomic(target, b"first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomic(target, b"second")
    assert target.read_bytes() == b"first"
    assert [p.name for p in target.parent.iterdir()] == ["a.bin"]


def test_list_is_sorted_and_leaves_hidden_files_out(tmp_path):
    for name in ("b/2.JPG", "a.png", "b/1.jpeg", ".hidden/x.png", "b/.y.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [file_key(p, tmp_path) for p in list_images(tmp_path)] == ["a.png", "b/1.jpeg", "b/2.JPG"]
    with pytest.raises(DataError, match="is not a folder"):
        next(list_images(tmp_path / "a.png"))


@pytest.mark.parametrize("form", ["EPS", "PPM", "TGA", "PCX", "ICO", "JPEG2000", "PDF"])
def test_formats_that_nobody_asked_for_are_not_decoded(form):
    """A file named .png may be anything; Pillow would run Ghostscript on PostScript."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 60)).save(buffer, form)
    with pytest.raises(ImageError, match="not an image that can be decoded"):
        decode_image(buffer.getvalue())
