"""The one reader of pictures and the one of label maps: what is checked is what is computed.

An ordinary file (8 bits a channel, grey or colour) gives the very pixels that ``cv2.imread`` gives, and one that is cut
short is refused, where OpenCV would make the rest grey. What else there is has one meaning everywhere:

- an EXIF orientation is not applied: labels belong to the stored pixels, unless their own size says otherwise;
- of 16 bits a channel the upper 8 are read, as OpenCV does (Pillow's ``convert("RGB")`` clips greys to white);
- palettes and CMYK are converted by Pillow; the colours under an alpha channel are read and the channel is dropped.

:func:`read_header` tells which of these a file is, so that they can be counted.
"""

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from selfpatch.pretrain.cli import UserError

warnings.filterwarnings("ignore", module="PIL")  # of what is odd in a file; it is counted by its header instead

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # whatever the ending says; none of them runs a program
MOST_PIXELS = 178_956_970  # Pillow's own limit: half a gigabyte of RGB
ENDS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
ORIENTATION = ExifTags.Base.Orientation
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # what turns pixels upright that swap their sides
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}
REDUCED = {  # by how much: OpenCV's name
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
END_OF_JPEG = b"\xff\xd9"
EXIF, DEEP, PALETTE, CMYK, ALPHA, FRAMES = "exif", "deep", "palette", "cmyk", "alpha", "frames"
ODD = {  # what can be odd about a picture: in words, and how it is read
    EXIF: ("an EXIF orientation", "the stored pixels are read, turned only where the size of the labels asks for it"),
    DEEP: ("16 bits a channel", "the upper 8 are read"),
    PALETTE: ("a palette", "its colours are read"),
    CMYK: ("CMYK colours", "they are converted to RGB without a profile"),
    ALPHA: ("an alpha channel", "it is dropped"),
    FRAMES: ("several frames", "the first is read"),
}
NO_LABELS = "a label map holds one number a pixel: save it as an 8-bit greyscale or palette PNG"


@dataclass(frozen=True)
class Header:
    """What a file says before it is decoded: (height, width) as stored, keys of :data:`ODD`, and the size by EXIF."""

    size: tuple[int, int]
    odd: tuple[str, ...]
    upright: tuple[int, int]


def odd_ones(headers: Iterable[Header]) -> list[tuple[str, str]]:
    """For each way in which some of the pictures are odd: how many of them are, and how they are read."""
    headers = list(headers)
    counts = Counter(kind for header in headers for kind in header.odd)
    return [
        (f"{counts[kind]} of {len(headers)} pictures looked at have {words}", how)
        for kind, (words, how) in ODD.items()
        if counts[kind]
    ]


def read_header(source: str | Path | bytes, decode: bool = False, name: str | None = None) -> Header:
    """The header of a picture; with ``decode`` only if the file can be read to its end.

    Raises:
        UserError: it is no picture that can be read.
    """
    with _opened(source, name) as image:
        # what is odd comes first: to look for EXIF decodes a PNG, which then no longer says how it was stored
        header = Header((image.height, image.width), _odd(image), _upright_size(image))
        if decode:
            _pixels(image)
    return header


def ends_whole(path: Path) -> bool:
    """Whether a file ends as a whole one of its format does; False for a format whose end is not known."""
    with open(path, "rb") as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        end = ENDS.get(path.suffix.lower())
        return end is not None and file.read().rstrip(b"\0").endswith(end)


def read_picture(
    source: str | Path | bytes,
    size: tuple[int, int] | None = None,
    reduction: int | Callable[[int, int], int] = 1,
    name: str | None = None,
) -> np.ndarray:
    """The pixels of a picture: RGB (H, W, 3), uint8.

    Args:
        source: a file, or the bytes of one.
        size: the (height, width) that its labels speak of. A picture of another size is turned upright by its EXIF
            orientation if that gives this size.
        reduction: 1, 2, 4 or 8: by how much both sides may be smaller, rounded up; saves time with a JPEG. Or what
            gives this number for a height and a width.
        name: what an error calls it, in place of a path.

    Raises:
        UserError: it cannot be read to its end.
    """
    with _opened(source, name) as image:
        if callable(reduction):
            reduction = reduction(image.height, image.width)
        turned = size is not None and size != (image.height, image.width) and _upright_size(image) == size
        turn = UPRIGHT[_orientation(image)] if turned else np.asarray
        return np.ascontiguousarray(turn(_pixels(image, reduction)))


def read_labels(source: str | Path | bytes, name: str | None = None) -> np.ndarray:
    """The numbers of a label map (H, W), uint8: palette indices or grey values, never colours.

    Raises:
        UserError: it cannot be read to its end, or does not hold one number of 0 … 255 a pixel.
    """
    with _opened(source, name) as image:
        fault = _fault_of_labels(image)
        numbers = None if fault else np.asarray(image)
        if not fault and numbers.dtype.itemsize > 1 and not 0 <= numbers.min() <= numbers.max() <= 255:
            fault = f"holds labels from {numbers.min()} to {numbers.max()}"
    if fault:
        raise UserError(f"{name or _name(source)} {fault}: {NO_LABELS}")
    return numbers.astype(np.uint8, copy=False)


def labels_size(path: str | Path) -> tuple[int, int]:
    """The (height, width) of a label map, which is not decoded."""
    with _opened(path) as image:
        size, fault = (image.height, image.width), _fault_of_labels(image)
    if fault:
        raise UserError(f"{path} {fault}: {NO_LABELS}")
    return size


def _fault_of_labels(image: Image.Image) -> str | None:
    """Why an opened image holds no labels, as far as its header tells."""
    if image.format in ("JPEG", "MPO", "WEBP"):
        return f"is a {image.format} file, whose compression makes labels that are nowhere"
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        return f"is a picture of mode {image.mode}"
    return None


@contextmanager
def _opened(source: str | Path | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """An image whose header is read; whatever a decoder raises on foreign bytes becomes a line that names the file."""
    try:
        file = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels are more than {MOST_PIXELS:,}")
            yield image
    except Exception as error:  # decoders raise anything, from struct.error to MemoryError
        name = name or _name(source)
        reason = "no such file" if isinstance(error, FileNotFoundError) else _reason(error, name)
        raise UserError(f"{name} cannot be read ({reason}): remove it or get that file again") from None


def _name(source: str | Path | bytes) -> str:
    return str(source) if isinstance(source, (str, Path)) else "a picture"


def _reason(error: Exception, name: str) -> str:
    words = " ".join(str(error).replace(repr(name), "").replace(name, "").split()).strip(" '\"")
    return words[:200] or type(error).__name__


def _pixels(image: Image.Image, reduction: int = 1) -> np.ndarray:
    """The stored pixels of an opened image, decoded to its end: RGB (H, W, 3), uint8, an array of its own."""
    plain = _plain_jpeg(image, reduction)
    if plain is not None:
        return plain
    if reduction > 1:
        image.draft(None, (max(1, image.width // reduction), max(1, image.height // reduction)))
    picture = _rgb(image)
    if reduction > 1 and image.format not in ("JPEG", "MPO"):
        picture = picture.reduce(reduction)
    return np.array(picture)


def _rgb(image: Image.Image) -> Image.Image:
    """An opened image, decoded to its end, as 8-bit RGB."""
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I"):  # 16 bits: as such, or in 32 of them
        numbers = np.asarray(image)
        if not 0 <= numbers.min() <= numbers.max() < 1 << 16:
            raise ValueError("32 bits a pixel, no picture of 8 or 16")
        image = Image.fromarray((numbers >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("it holds floating-point numbers, no picture of 8 or 16 bits")
    return image.convert("RGB")


def _plain_jpeg(image: Image.Image, reduction: int) -> np.ndarray | None:
    """An ordinary JPEG decoded by OpenCV: the same pixels in half of Pillow's time. None: Pillow shall judge it."""
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    image.fp.seek(0)
    data = image.fp.read()
    if not data.endswith(END_OF_JPEG):  # cut short, perhaps: OpenCV would make the rest grey
        return None
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where there is none that can be read, which is how a picture is read then."""
    try:
        stated = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF is a TIFF of its own, and may hold anything
        return 1
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return (image.width, image.height) if _orientation(image) in UPRIGHT else (image.height, image.width)


def _odd(image: Image.Image) -> tuple[str, ...]:
    raw = str(image.tile[0][3]) if image.format in ("PNG", "TIFF") and image.tile else ""
    found = {
        EXIF: _orientation(image) > 1,
        DEEP: image.mode.startswith("I") or ";16" in raw,
        PALETTE: image.mode in ("P", "PA"),
        CMYK: image.mode == "CMYK",
        ALPHA: image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info,
        FRAMES: image.format != "MPO" and getattr(image, "n_frames", 1) > 1,  # an MPO's others are thumbnails
    }
    return tuple(kind for kind, there in found.items() if there)
