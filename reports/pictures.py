"""Pictures behind the figures of videos: where methods differ most, the truth and each one's masks side by side."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import list_files
from selfpatch.pretrain.images import read_labels, read_picture
from selfpatch.reports.masks import SHOWN, overlay
from selfpatch.reports.record import Record
from selfpatch.reports.sheet import Cell, Head, Sheet
from selfpatch.reports.tables import DIGITS, Row, Table, delta_text

MOST = 10  # pictured units of either kind: the worst regressions and the best gains
STRIP, CLIP, FRAMES = 240, 160, 16  # pixels of a picture's width in a strip and in a clip, and frames of a clip
Scores = Mapping[Row, Mapping[str, float]]


@dataclass(frozen=True)
class Picture:
    """One sequence: a strip of some frames and a clip, both WebP, with what stands in their columns."""

    name: str
    caption: str
    strip: bytes
    clip: bytes


def pictures_of(table: Table, scored: Scores) -> tuple[list[Picture], list[str]]:
    """The pictures of the sequences that differ most from the baseline, and why some could not be made."""
    kept = {row: table.records[row][0] for row in scored if table.records[row][0].kept}
    if len(kept) < 2:
        return [], []
    made, notes = [], []
    for name in most_different(table, {row: scored[row] for row in kept}):
        try:
            made.append(picture(name, kept, {row: scored[row][name] for row in kept}))
        except UserError as error:
            notes.append(f"No picture of {name}: {error}.")
    return made, notes[:1] + [f"{len(notes) - 1} more pictures could not be made."] * (len(notes) > 1)


def most_different(table: Table, scored: Scores) -> list[str]:
    """The units of the largest losses against the baseline, worst first, then those of the largest gains.

    Where no row has a baseline: the units on which rows differ most.
    """
    found: dict[str, list[float]] = {}
    for row, values in scored.items():
        reference = scored.get(table.reference(row))
        for name, value in values.items():
            if reference and name in reference:
                found.setdefault(name, []).append(value - reference[name])
    if not found:
        columns = [scored[row] for row in scored]
        shared = set(columns[0]).intersection(*columns[1:])
        spread = {name: max(one[name] for one in columns) - min(one[name] for one in columns) for name in shared}
        return sorted(spread, key=lambda name: (-spread[name], name))[:MOST]
    losses = sorted((name for name, deltas in found.items() if min(deltas) < 0), key=lambda name: min(found[name]))
    gains = sorted((name for name, deltas in found.items() if max(deltas) > 0), key=lambda name: max(found[name]))
    return list(dict.fromkeys([*losses[:MOST], *gains[-MOST:]]))


def picture(name: str, records: Mapping[Row, Record], scores: Mapping[Row, float]) -> Picture:
    """The strip and the clip of one sequence.

    Raises:
        UserError: frames or masks are gone, or the masks are of another evaluation by now.
    """
    for record in records.values():
        raise_unless_kept(record, name)
    kept = next(iter(records.values())).kept
    truth = list_files(Path(kept["truth"]) / name, [".png"], deep=False).by_stem()
    images = list_files(Path(kept["images"]) / name, deep=False).by_stem()
    folders = [Path(kept["truth"]), *(Path(record.kept["masks"]) for record in records.values())]
    stems = [stem for stem in truth if stem in images]
    if not stems:
        raise UserError(f"{kept['images']}/{name} holds no frame of a mask in {kept['truth']}/{name}")

    def side_by_side(stem: str, width: int) -> np.ndarray:
        frame = Image.fromarray(read_picture(images[stem]))
        size = (width, max(1, round(width * frame.height / frame.width)))
        small = np.asarray(frame.resize(size, Image.Resampling.BILINEAR))
        masks = (Image.fromarray(read_labels(folder / name / f"{stem}.png")) for folder in folders)
        return np.hstack([overlay(small, np.asarray(mask.resize(size, Image.Resampling.NEAREST))) for mask in masks])

    strip = np.vstack([side_by_side(stems[round(share * (len(stems) - 1))], STRIP) for share in SHOWN])
    places = np.unique(np.linspace(0, len(stems) - 1, FRAMES).round().astype(int))
    clip = [Image.fromarray(side_by_side(stems[place], CLIP)) for place in places]
    columns = ["ground truth", *(f"{row.label} {row.arch} {scores[row]:.{DIGITS}f}" for row in records)]
    return Picture(name, " | ".join(columns), webp([Image.fromarray(strip)]), webp(clip))


def raise_unless_kept(record: Record, name: str) -> None:
    """Raise :class:`UserError` unless the masks of a sequence still are those that the record was scored on."""
    sidecar = Path(record.kept["masks"]).parent / "done" / f"{name}.json"
    try:
        made = json.loads(sidecar.read_text(encoding="utf-8"))
        same = made["weights_sha256"] == record.weights_sha256 and made["protocol"]["name"] == record.protocol.name
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"the masks in {record.kept['masks']} are gone") from None
    if not same:
        raise UserError(f"the masks in {record.kept['masks']} are of another evaluation by now")


def webp(frames: Sequence[Image.Image]) -> bytes:
    """One picture, or several as a clip of four a second, as WebP."""
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:], "duration": 250, "loop": 0} if len(frames) > 1 else {}
    frames[0].save(buffer, "WEBP", quality=60 if more else 75, method=2, **more)
    return buffer.getvalue()


def unit_sheet(table: Table, scored: Scores, links: Mapping[str, str]) -> Sheet | None:
    """The main metric of every unit for every row, the largest loss against the baseline first; None without units."""
    rows = list(scored)
    if not rows or len({frozenset(scored[row]) for row in rows}) > 1:
        return None
    several = len({row.arch for row in rows}) > 1
    lines = []
    for name in scored[rows[0]]:
        cells, losses = [Cell(name, link=links.get(name, ""))], [0.0]
        for row in rows:
            reference = table.reference(row)
            delta = scored[row][name] - scored[reference][name] if reference in scored else float("nan")
            sign = "even" if not abs(round(delta, DIGITS)) > 0 else "gain" if delta > 0 else "loss"
            losses += [delta] * bool(np.isfinite(delta))
            cells.append(Cell(f"{scored[row][name]:.{DIGITS}f}", delta=delta_text(delta), sign=sign))
        lines.append((min(losses), cells))
    lines.sort(key=lambda line: line[0])
    heads = [Head(f"{row.label} {row.arch}" if several else row.label, number=True) for row in rows]
    return Sheet(f"{table.headline[0]} of each unit: {table.short}", [Head("unit"), *heads], [c for _, c in lines])
