"""One reader: ordinary files give OpenCV's pixels, odd ones their one meaning, and what is no picture one line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.images import MOST_PIXELS, read_header, read_labels, read_picture

SCENE = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 18, 3), dtype=np.uint8), (61, 43))


def scene(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(SCENE).convert(mode)


def saved(path: Path, image: Image.Image, orientation: int = 1, **options) -> Path:
    if orientation > 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif.tobytes()
    image.save(path, **options)
    return path


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_gives_the_pixels_of_opencv(tmp_path, mode, quality, progressive, subsampling):
    options = {"quality": quality, "progressive": progressive}
    path = saved(tmp_path / "x.jpg", scene(mode), subsampling=subsampling, **options)
    assert np.array_equal(read_picture(path)[:, :, ::-1], cv2.imread(str(path)))
    assert read_header(path, decode=True).odd == ()
    assert np.array_equal(read_picture(path), read_picture(path.read_bytes()))


@pytest.mark.parametrize(
    ("mode", "name", "odd"),
    [
        ("RGB", "x.png", ()),
        ("L", "x.png", ()),
        ("1", "x.png", ()),
        ("RGB", "x.webp", ()),
        ("P", "x.png", ("palette",)),
        ("RGBA", "x.png", ("alpha",)),
        ("LA", "x.png", ("alpha",)),
    ],
)
def test_other_pictures_of_8_bits_give_the_pixels_of_opencv_too(tmp_path, mode, name, odd):
    path = saved(tmp_path / name, scene(mode))
    assert np.array_equal(read_picture(path)[:, :, ::-1], cv2.imread(str(path)))
    assert read_header(path).odd == odd


def test_every_real_photograph_gives_the_pixels_of_opencv(data_root):
    for path in sorted(data_root.rglob("*.jpg"))[::25]:
        assert np.array_equal(read_picture(path)[:, :, ::-1], cv2.imread(str(path)))


@pytest.mark.parametrize("channels", [1, 3])
def test_of_16_bits_the_upper_8_are_read(tmp_path, channels):
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), SCENE[:, :, :channels].squeeze().astype(np.uint16) * 257 - 3)
    assert np.array_equal(read_picture(path)[:, :, ::-1], cv2.imread(str(path)))
    assert read_header(path).odd == ("deep",)


def test_cmyk_is_converted_and_told(tmp_path):
    path = saved(tmp_path / "x.jpg", scene("CMYK"), quality=95)
    assert np.abs(read_picture(path).astype(int) - SCENE).mean() < 8
    assert read_header(path).odd == ("cmyk",)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_stored_pixels_are_read_whatever_the_orientation_and_turned_where_the_labels_are(tmp_path, orientation, name):
    plain = read_picture(saved(tmp_path / f"plain-{name}", scene()))
    path = saved(tmp_path / name, scene(), orientation)
    assert np.array_equal(read_picture(path), plain)
    assert np.array_equal(read_picture(path, size=(43, 61)), plain)
    turned = read_picture(path, size=(61, 43))
    if orientation < 5:  # the sides are not swapped: the caller finds that the sizes differ
        assert turned.shape == plain.shape
    else:
        with Image.open(path) as image:
            assert np.array_equal(turned, ImageOps.exif_transpose(image).convert("RGB"))
    assert read_header(path).odd == ("exif",)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_picture_may_be_read_smaller(tmp_path, name, reduction):
    path = saved(tmp_path / name, scene())
    assert read_picture(path, reduction=reduction).shape == (-(-43 // reduction), -(-61 // reduction), 3)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused_by_name(tmp_path, name, kept):
    path = saved(tmp_path / name, scene())
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    for read in (read_picture, read_labels, lambda path: read_header(path, decode=True)):
        with pytest.raises(UserError, match=name):
            read(path)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_that_are_no_picture_are_refused(tmp_path, mode):
    path = tmp_path / "x.png"
    Image.fromarray((SCENE[:, :, 0] * np.float32(1e6)).astype({"F": "f4", "I": "i4"}[mode])).save(path, format="TIFF")
    with pytest.raises(UserError, match=r"x\.png cannot be read"):
        read_picture(path)


def test_a_huge_picture_is_one_line(tmp_path):
    path = tmp_path / "x.png"
    Image.new("1", (15000, MOST_PIXELS // 15000 + 1)).save(path)
    with pytest.raises(UserError, match=r"x\.png cannot be read .*pixels"):
        read_header(path)


def test_a_file_that_would_run_a_program_is_no_picture(tmp_path):
    (tmp_path / "x.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(UserError, match=r"x\.jpg cannot be read"):
        read_picture(tmp_path / "x.jpg")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_labels_are_indices_not_colours(tmp_path, bits):
    numbers = (SCENE[:, :, 0] % 4).astype(np.uint8)
    picture = Image.fromarray(numbers, "P")
    picture.putpalette([*range(12)])
    assert np.array_equal(read_labels(saved(tmp_path / "x.png", picture, bits=bits)), numbers)


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_grey_labels_are_read_whatever_their_bits(tmp_path, mode):
    numbers = SCENE[:, :, 0]
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), numbers.astype({"L": np.uint8, "I;16": np.uint16}[mode]))
    assert np.array_equal(read_labels(path), numbers)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: scene("L").save(path, format="JPEG"), "JPEG"),
        (lambda path: scene("L").save(path, format="WEBP"), "WEBP"),
        (lambda path: scene().save(path), "mode RGB"),
        (lambda path: scene("RGBA").save(path), "mode RGBA"),
        (lambda path: cv2.imwrite(str(path), SCENE[:, :, 0].astype(np.uint16) * 9), "holds labels from"),
    ],
)
def test_what_holds_no_labels_is_refused_by_name(tmp_path, spoil, said):
    spoil(tmp_path / "x.png")
    with pytest.raises(UserError, match=rf"x\.png.*{said}"):
        read_labels(tmp_path / "x.png")
