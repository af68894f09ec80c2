"""Pictures of single images: what each method segmented or detected beside the truth, and where they are wrong."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from matplotlib.colors import hsv_to_rgb
from PIL import Image, ImageDraw, ImageFont

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import list_files
from selfpatch.pretrain.images import read_labels, read_picture
from selfpatch.reports.masks import COLOURS, overlay
from selfpatch.reports.record import Record

LARGEST = 1 << 24  # bytes of one kept file
HEAD, LINE = 20, 14  # pixels of a column's title, and of a line of small text
LEGEND = 8  # classes that a legend has room for
WRONG, LOST, GAINED, DIFFER = (130, 130, 130), (213, 94, 0), (0, 114, 178), (240, 228, 66)
MISSED = (255, 0, 200)
_HUES = (np.arange(256) * 0.618) % 1  # neighbouring classes are far apart
CLASSES = np.round(255 * hsv_to_rgb(np.stack([_HUES, np.full(256, 0.75), 0.6 + 0.35 * (_HUES * 7 % 1)], 1)))


def kept_names(record: Record) -> set[str]:
    """The images of which a record keeps predictions; raises UserError where its file of them is gone."""
    with _archive(record) as archive:
        return {name.removesuffix(".png") for name in archive.namelist() if name.endswith(".png")}


def kept_file(record: Record, name: str) -> bytes:
    """A file of a record's predictions; raises UserError where there is none, or one of an absurd size."""
    with _archive(record) as archive:
        try:
            if archive.getinfo(name).file_size > LARGEST:
                raise UserError(f"{record.kept['predictions']}: {name} is larger than any prediction")
            return archive.read(name)
        except (KeyError, OSError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
            raise UserError(f"{record.kept['predictions']} does not give {name} ({error})") from error


def _archive(record: Record) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(record.path.parent / record.kept["predictions"])
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"the predictions of {record.path} cannot be read ({error})") from error


def segmentation_picture(name: str, records: Mapping[str, Record], baseline: str) -> Image.Image:
    """The image, the truth and each method's classes in a row; below them what each has wrong, and where they differ.

    Args:
        name: of the image, without its ending.
        records: title of a column -> record.
        baseline: the title that the others are held against.

    Raises:
        UserError: the image, its labels or a prediction is gone.
    """
    first = records[baseline]
    labels = read_labels(_file(first.kept["truth"], name))
    photograph = read_picture(_file(first.kept["images"], name), size=labels.shape)
    found = {title: read_labels(kept_file(record, f"{name}.png")) for title, record in records.items()}
    size = found[baseline].shape[::-1]
    image = np.asarray(Image.fromarray(photograph).resize(size, Image.Resampling.BILINEAR))
    truth, *found_maps = (
        np.asarray(Image.fromarray(one).resize(size, Image.Resampling.NEAREST)) for one in (labels, *found.values())
    )
    right = {title: one == truth for title, one in zip(found, found_maps, strict=True)}
    differ = np.any([one != found_maps[0] for one in found_maps], axis=0)
    names = json.loads(kept_file(first, "classes.json"))
    top = {"image": image, "ground truth": _classes(image, truth)}
    top |= {title: _classes(image, one) for title, one in zip(found, found_maps, strict=True)}
    below = [_legend(np.stack([truth, *found_maps]), names, size), _tinted(image, {DIFFER: differ & (truth > 0)})]
    for own in right.values():
        reference, labelled = right[baseline], truth > 0
        parts = {WRONG: ~own & ~reference, LOST: ~own & reference, GAINED: own & ~reference}
        below.append(_tinted(image, {colour: part & labelled for colour, part in parts.items()}))
    return headed([(title, [one, two]) for (title, one), two in zip(top.items(), below, strict=True)])


def detection_picture(name: str, records: Mapping[str, Record], baseline: str) -> Image.Image:
    """The instances of an image, then what each method detected with its scores, what is wrong and what it missed.

    Args:
        name: the image's id.
        records: title of a column -> record.
        baseline: the title whose record says where the image is.

    Raises:
        UserError: the image or a prediction is gone, or is none.
    """
    columns, first = [], records[baseline]
    try:
        content = {title: json.loads(kept_file(record, f"{name}.json")) for title, record in records.items()}
        photograph = Image.fromarray(read_picture(Path(first.kept["images"]) / content[baseline]["file"]))
        given = read_labels(kept_file(first, f"{name}-truth.png"))
        image = np.asarray(photograph.resize(given.shape[::-1], Image.Resampling.BILINEAR))
        share = given.shape[1] / photograph.width
        columns.append(("ground truth", [_boxes(image, given, content[baseline]["truth"], [], share)]))
        for title, record in records.items():
            one = content[title]
            numbered = read_labels(kept_file(record, f"{name}.png"))
            columns.append((title, [_boxes(image, numbered, one["found"], one["missed"], share)]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the kept detections of image {name} are none ({error})") from error
    return headed(columns)


def headed(columns: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    """Columns of pictures (H, W, 3) of one size side by side, each under its title."""
    parts = []
    for title, pictures in columns:
        head = Image.new("RGB", (pictures[0].shape[1], HEAD), "white")
        _write(head, (3, 3), title, "black")
        parts.append(np.vstack([np.asarray(head), *pictures]))
    return Image.fromarray(np.hstack(parts))


def _write(picture: Image.Image, place: tuple[float, float], text: str, colour: str | tuple) -> None:
    """Write one line that ends where the picture does."""
    ImageDraw.Draw(picture).text(place, " ".join(text.split())[:80], fill=colour, font=_font())


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 11)


def _classes(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """An image tinted in the colour of each pixel's class; as it is where the label is 0."""
    mixed = np.round(0.35 * image + 0.65 * CLASSES[labels])
    return np.where((labels > 0)[..., None], mixed, image).astype(np.uint8)


def _legend(labels: np.ndarray, names: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """The names of the largest classes in label maps in their colours, on white."""
    picture = Image.new("RGB", size, "white")
    numbers, counts = np.unique(labels[labels > 0], return_counts=True)
    lines = [(CLASSES[n], str(names[n - 1])) for n in numbers[np.argsort(-counts)][:LEGEND] if n <= len(names)]
    lines += [(WRONG, "wrong, as the baseline is"), (LOST, "wrong, the baseline is right")]
    lines += [(GAINED, "right, the baseline is wrong"), (DIFFER, "methods differ")]
    for number, (colour, text) in enumerate(lines):
        y = 3 + number * LINE
        ImageDraw.Draw(picture).rectangle((4, y + 1, 14, y + 11), fill=tuple(map(int, colour)))
        _write(picture, (19, y - 1), text, "black")
    return np.asarray(picture)


def _tinted(image: np.ndarray, parts: Mapping[tuple, np.ndarray]) -> np.ndarray:
    """A greyed image with each part (H, W) in its colour."""
    picture = np.repeat(127 + image.mean(axis=2, keepdims=True) / 2, 3, axis=2)
    for colour, part in parts.items():
        picture[part] = 0.25 * picture[part] + 0.75 * np.array(colour)
    return picture.round().astype(np.uint8)


def _boxes(
    image: np.ndarray, numbered: np.ndarray, found: Sequence[dict], missed: Sequence[dict], share: float
) -> np.ndarray:
    """Masks and boxes with name and score, a cross before what is wrong; what was missed in a thick box."""
    picture = Image.fromarray(overlay(image, numbered))
    draw = ImageDraw.Draw(picture)
    boxes = [(one, tuple(map(int, COLOURS[i % len(COLOURS)])), 1) for i, one in enumerate(found)]
    for one, colour, width in (*reversed(boxes), *((one, MISSED, 3) for one in missed)):  # the best, then what lacks
        x, y, w, h = (share * float(side) for side in one["box"])
        draw.rectangle((x, y, x + max(w, 1), y + max(h, 1)), outline=colour, width=width)
        text = "missed: " * (width > 1) + "✗ " * (not one.get("right", True)) + str(one["name"])
        text += f" {one['score']:.2f}" if "score" in one else ""
        corner = (max(0.0, x), max(0.0, y - LINE))
        draw.rectangle(draw.textbbox(corner, text[:80], font=_font()), fill=colour)
        _write(picture, corner, text, "white")
    return np.asarray(picture)


def _file(folder: str, stem: str) -> Path:
    """The picture of that name in a folder or below it."""
    try:
        return _stems(folder)[stem]
    except KeyError:
        raise UserError(f"{folder} holds no picture {stem}") from None


@cache
def _stems(folder: str) -> dict[str, Path]:
    return list_files(Path(folder)).by_stem()
