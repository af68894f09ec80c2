"""Pictures of tracked masks: one a sequence, with the frame, the truth and each method's masks side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.pretrain.files import raise_unless_writable
from selfpatch.pretrain.folders import folders_in, list_files
from selfpatch.pretrain.images import read_labels, read_picture
from selfpatch.reports.attention import rows_figure
from selfpatch.reports.plots import save

DESCRIPTION = """Draw the masks that several methods propagated, beside the frames and the truth.

example: python -m selfpatch.reports.masks --davis data/DAVIS --out work_dirs/report \\
             DINO=work_dirs/eval/a/masks SelfPatch=work_dirs/eval/b/masks"""
COLOURS = np.array([(230, 97, 1), (0, 114, 178), (0, 158, 115), (204, 121, 167), (240, 228, 66)])  # colour-blind-safe
SHOWN = (0.25, 0.6, 1.0)  # which frames, as shares of the sequence: the first is given, so it tells nothing


def overlay(frame: np.ndarray, mask: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """A frame (H, W, 3) with each object of an index mask (H, W) tinted in its own colour; 255 is void."""
    picture = frame.astype(float)
    for number in np.unique(mask):
        if number not in (0, 255):
            inside = mask == number
            picture[inside] = (1 - opacity) * picture[inside] + opacity * COLOURS[(number - 1) % len(COLOURS)]
    return picture.round().astype(np.uint8)


def sequence_picture(davis: Path, sequence: str, methods: dict[str, Path]) -> Figure:
    """Some frames of a sequence as rows; frame, truth and every method's masks as columns.

    Args:
        methods: display name -> folder of masks in submission layout.

    Raises:
        UserError: a frame or a mask is missing, cannot be read or has another size.
    """
    truth, images = (davis / name / "480p" / sequence for name in ("Annotations", "JPEGImages"))
    names = list(list_files(truth, [".png"], deep=False).by_stem()) if truth.is_dir() else []
    if not names:
        raise UserError(f"no masks in {truth}: give a DAVIS-style root")
    chosen = [names[round(share * (len(names) - 1))] for share in SHOWN]
    paths = list_files(images, deep=False).by_stem() if images.is_dir() else {}
    rows = []
    for name in chosen:
        frame = read_picture(paths.get(name, images / f"{name}.jpg"))
        pictures = [frame]
        for path in (folder / f"{name}.png" for folder in (truth, *(one / sequence for one in methods.values()))):
            mask = read_labels(path)
            if mask.shape != frame.shape[:2]:
                raise UserError(f"{path} is no mask of its frame: shape {mask.shape}, frame {frame.shape[:2]}")
            pictures.append(overlay(frame, mask))
        rows.append((f"frame {int(name)}" if name.isdigit() else name, pictures))
    return rows_figure(sequence, rows, ["frame", "ground truth", *methods])


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("methods", nargs="+", metavar="NAME=FOLDER", help="a method and its masks/<sequence>/*.png")
    parser.add_argument("--davis", type=Path, default=Path("data/DAVIS"), help="DAVIS-style root")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/report"), help="folder of the pictures")
    args = parser.parse_args(argv)
    if wrong := [word for word in args.methods if "=" not in word]:
        raise UserError(f"{wrong[0]}: write NAME=FOLDER, e.g. DINO=work_dirs/eval/davis-0123456789ab/masks")
    raise_unless_writable(args.out, "--out")
    methods = {name: Path(folder) for name, folder in (word.split("=", 1) for word in args.methods)}
    for name, folder in methods.items():
        if not folder.is_dir():
            raise UserError(f"{name}={folder}: no such folder; give one that holds masks/<sequence>/*.png")
    first = next(iter(methods.values()))
    sequences = [path.name for path in folders_in(first)]
    if not sequences:
        raise UserError(f"{first} holds no folder of masks: expected <sequence>/*.png in it")
    for sequence in sequences:
        save(sequence_picture(args.davis, sequence, methods), args.out / f"{sequence}.png")
    print(f"{len(sequences)} pictures of masks: {args.out}/<sequence>.png")


if __name__ == "__main__":
    run_command(main)
