"""Pictures behind the figures: where methods differ most, the truth and each one's prediction side by side."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import list_files
from selfpatch.pretrain.images import read_labels, read_picture
from selfpatch.reports.bootstrap import unit_scores
from selfpatch.reports.images import detection_picture, headed, kept_names, segmentation_picture
from selfpatch.reports.masks import SHOWN, overlay
from selfpatch.reports.metrics import resolve
from selfpatch.reports.record import Record
from selfpatch.reports.sheet import Cell, Head, Sheet
from selfpatch.reports.tables import DIGITS, Row, Table, delta_text

MOST = 10  # pictured units of either kind: the worst regressions and the best gains
LARGEST_PAGE = 6_500_000  # bytes of pictures in a page, which grow by a third there: it stays below 10 MB
STRIP, CLIP, FRAMES = 240, 128, 12  # pixels of a picture's width in a strip and in a clip, and frames of a clip
LEGENDS = {  # of the arrays that a measure counts its units by
    "sequence": "Frames at a quarter, at 60 % and at the end.",
    "image": "Below each method: what it has wrong, and where it differs from the baseline.",
    "images": "Numbers are scores; ✗: wrong at an IoU of 0.5; a thick box: missed.",
}
Scores = Mapping[Row, Mapping[str, float]]


@dataclass(frozen=True)
class Picture:
    """One unit as WebP, of a video some frames and a clip, with what stands in its columns."""

    name: str
    caption: str
    still: bytes
    clip: bytes = b""


@dataclass(frozen=True)
class Album:
    """The pictures of a table, the figures of single units, and why some could not be made."""

    pictures: list[Picture]
    scored: Scores
    notes: list[str]
    legend: str = ""
    heading: str = ""
    listed: frozenset[str] | None = None  # of many units those that a table shows; None: all


def album_of(table: Table, scored: Scores) -> Album:
    """The pictures of the units that differ most from the baseline.

    Args:
        table: a comparison.
        scored: the main metric of every unit of its rows, where units are few and known by name; else empty.
    """
    records = {row: table.records[row][0] for row in table.rows}
    kept = {row: record for row, record in records.items() if record.measure and record.kept}
    if len(kept) < 2:
        return Album([], scored, [])
    measure = resolve(next(iter(kept.values())).measure)
    metric, notes, shown = measure.alone[0] if measure.alone else table.headline[0], [], dict(scored)
    heading = f"{metric} of each {measure.unit}"
    try:
        if not scored:
            shown = {row: unit_scores(record, table.headline[0]) for row, record in kept.items()}
            names = set.intersection(*(kept_names(record) for record in kept.values()))
            shown = {row: {name: one[name] for name in one if name in names} for row, one in shown.items()}
    except UserError as error:
        return Album([], {}, [f"No pictures: {error}."])
    chosen, made = most_different(table, {row: shown[row] for row in kept if row in shown}), []
    for name in chosen:
        try:
            made.append(picture(name, table, {row: kept[row] for row in shown if row in kept}, shown))
        except UserError as error:
            notes.append(f"No picture of {name}: {error}.")
    notes = notes[:1] + [f"{len(notes) - 1} more pictures could not be made."] * (len(notes) > 1)
    listed = None if scored else frozenset(one.name for one in made)
    return Album(made, shown, notes, LEGENDS.get(measure.key, ""), heading, listed)


def leave_out_clips(albums: Sequence[Album], most: int) -> list[str]:
    """Take clips out of albums, from the last pictures on, until all have at most ``most`` bytes; and say so."""
    total, taken = sum(len(one.still) + len(one.clip) for album in albums for one in album.pictures), 0
    for place in reversed(range(2 * MOST)):
        for album in albums:
            if total > most and place < len(album.pictures) and (clip := album.pictures[place].clip):
                album.pictures[place] = replace(album.pictures[place], clip=b"")
                total, taken = total - len(clip), taken + 1
    return [f"{taken} clips are left out to keep the page small: --assets shows them."] * (taken > 0)


def picture(name: str, table: Table, records: Mapping[Row, Record], scored: Scores) -> Picture:
    """The picture of one unit; raises UserError where something that it is made from is gone."""
    titles = {f"{row.label} {row.arch} {scored[row][name]:.{DIGITS}f}": record for row, record in records.items()}
    first = next(iter(records.values()))
    columns = [*["image"] * ("predictions" in first.kept and "truth" in first.kept), "ground truth", *titles]
    caption = " | ".join(columns)
    if "masks" in first.kept:
        return Picture(name, caption, *video(name, titles))
    baseline = next((title for row, title in zip(records, titles) if table.is_baseline(row)), next(iter(titles)))
    draw = segmentation_picture if "truth" in first.kept else detection_picture
    return Picture(name, caption, webp([draw(name, titles, baseline)]))


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


def video(name: str, records: Mapping[str, Record]) -> tuple[bytes, bytes]:
    """The strip and the clip of one sequence, a column for each title of ``records``.

    Raises:
        UserError: frames or masks are gone, or the masks are of another evaluation by now.
    """
    for record in records.values():
        raise_unless_kept(record, name)
    kept = next(iter(records.values())).kept
    truth = list_files(Path(kept["truth"]) / name, [".png"], deep=False).by_stem()
    images = list_files(Path(kept["images"]) / name, deep=False).by_stem()
    folders = {"ground truth": Path(kept["truth"])}
    folders |= {title: Path(record.kept["masks"]) for title, record in records.items()}
    stems = [stem for stem in truth if stem in images]
    if not stems:
        raise UserError(f"{kept['images']}/{name} holds no frame of a mask in {kept['truth']}/{name}")

    def columns(stem: str, width: int) -> list[np.ndarray]:
        frame = Image.fromarray(read_picture(images[stem]))
        size = (width, max(1, round(width * frame.height / frame.width)))
        small = np.asarray(frame.resize(size, Image.Resampling.BILINEAR))
        masks = (Image.fromarray(read_labels(folder / name / f"{stem}.png")) for folder in folders.values())
        return [overlay(small, np.asarray(mask.resize(size, Image.Resampling.NEAREST))) for mask in masks]

    rows = [columns(stems[round(share * (len(stems) - 1))], STRIP) for share in SHOWN]
    places = np.unique(np.linspace(0, len(stems) - 1, FRAMES).round().astype(int))
    clip = [Image.fromarray(np.hstack(columns(stems[place], CLIP))) for place in places]
    return webp([headed(list(zip(folders, zip(*rows), strict=True)))]), webp(clip)


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


def unit_sheet(table: Table, album: Album, links: Mapping[str, str]) -> Sheet | None:
    """A metric of every unit for every row, the largest loss against the baseline first; None without units.

    Of a unit with several parts, such as the objects of a video, each part has a line, too.
    """
    rows = list(album.scored)
    if not rows or len({frozenset(album.scored[row]) for row in rows}) > 1 or not album.scored[rows[0]]:
        return None
    scored = {row: {**album.scored[row], **part_scores(table.records[row][0], table.headline[0])} for row in rows}
    lines, deltas = [], {row: {} for row in rows if table.reference(row) in scored}
    for name in (name for name in scored[rows[0]] if all(name in own for own in scored.values())):
        cells = [Cell(name, link=links.get(name) or links.get(name.rpartition("/")[0], ""))]
        for row in rows:
            value, text, sign = scored[row][name], "", "even"
            if row in deltas and np.isfinite(delta := value - scored[table.reference(row)][name]):
                deltas[row][name], text = delta, delta_text(delta)
                sign = "even" if not abs(round(delta, DIGITS)) > 0 else "gain" if delta > 0 else "loss"
            cells.append(Cell(f"{value:.{DIGITS}f}", delta=text, sign=sign))
        found = [own[name] for own in deltas.values() if name in own] or [0.0]
        if album.listed is None or name in album.listed:
            lines.append((min(found), max(found), name, cells))
    if not lines:
        return None
    lines.sort(key=lambda line: line[:3])
    several = len({row.arch for row in rows}) > 1
    heads = [Head(f"{row.label} {row.arch}" if several else row.label, number=True) for row in rows]
    title = f"{album.heading or f'{table.headline[0]} of each unit'}: {table.short}"
    lead = extremes({head.name: deltas[row] for head, row in zip(heads, rows, strict=True) if deltas.get(row)})
    lead = lead and f"Against {table.baseline}, {lead}."
    return Sheet(title, [Head("unit"), *heads], [cells for *_, cells in lines], lead)


def extremes(deltas: Mapping[str, Mapping[str, float]]) -> str:
    """How many units each row gains and loses on, by the digits that are shown, and its largest gain and loss."""
    lines = []
    for row, own in deltas.items():
        best, worst = max(own, key=own.__getitem__), min(own, key=own.__getitem__)
        gained, lost = (sum(sign * round(delta, DIGITS) > 0 for delta in own.values()) for sign in (1, -1))
        if gained or lost:
            gain, loss = f"{delta_text(own[best])} on {best}", f"{delta_text(own[worst])} on {worst}"
            ends = f"from {loss} to {gain}" if gained and lost else f"up to {gain}" if gained else f"down to {loss}"
            lines.append(f"{row} is better on {gained} and worse on {lost} of {len(own)}, {ends}")
        else:
            lines.append(f"{row} is equal on all {len(own)}")
    return "; ".join(lines)


def part_scores(record: Record, metric: str) -> dict[str, float]:
    """The metric of every part ("bear/1") of the units that have several; empty where units have no parts."""
    if resolve(record.measure).part is None:
        return {}
    found = unit_scores(record, metric, per_object=True)
    units = Counter(name.rpartition("/")[0] for name in found)
    return {name: value for name, value in found.items() if units[name.rpartition("/")[0]] > 1}
