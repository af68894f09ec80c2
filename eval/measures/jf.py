"""J and F, the two measures of DAVIS 2017 (semi-supervised), for any folder of index masks.

The values are those of the official evaluation (Pont-Tuset et al., arXiv 1704.00675, section 3), bit for bit, at a
fraction of its time; `bitmaps.py` has the measures of a single frame. No more than one frame is held at a time.
"""

import csv
import io
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from selfpatch.eval.measures.bitmaps import score_frame
from selfpatch.pretrain.cli import UserError, command_parser, listed, run_command
from selfpatch.pretrain.files import raise_unless_writable, read_lines, write_text
from selfpatch.pretrain.folders import folders_in, list_files
from selfpatch.pretrain.images import labels_size, read_labels
from selfpatch.pretrain.progress import Meter
from selfpatch.reports.metrics import VIDEO, decay, mean, recall

VOID = 255  # in the ground truth: background
STATISTICS = {"mean": mean, "recall": recall, "decay": decay}  # of an object's values
# The metrics of VIDEO, in its order, as the official evaluation names them
GLOBAL = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
OFFICIAL = (  # --no-deps: it asks for opencv-python, which overwrites opencv-python-headless
    "the official package is on no registry, add it with: pip install scikit-image tqdm && "
    "pip install --no-deps git+https://github.com/davisvideochallenge/davis2017-evaluation"
)
DESCRIPTION = """\
Score a folder of masks with J and F, the measures of DAVIS 2017 (semi-supervised).

    python -m selfpatch.eval.measures.jf data/DAVIS work_dirs/davis/masks --out work_dirs/davis

GT is a DAVIS root (Annotations/480p, else Annotations/Full-Resolution, and ImageSets/2017/val.txt) or a folder with
one folder of masks a sequence; PRED has a folder of masks for each of them, with the same file names. Masks are
palette or greyscale PNGs of object ids. As in the official evaluation the first and last frame do not count, and PRED
need not have them."""


def count_objects(first: np.ndarray) -> int:
    """The highest object id of a sequence's first true mask, void apart: objects 1 … that are scored."""
    return int(first.max(where=first != VOID, initial=0))


def score_sequence(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F, each (objects, n - 2), of index masks (n, H, W) uint8: the first and last frame are not scored.

    Raises ValueError for shapes that differ, for fewer than 3 frames, and for a predicted id above the highest one of
    the first true mask.
    """
    if truth.shape != prediction.shape or truth.ndim != 3 or len(truth) < 3:
        raise ValueError(f"need equal shapes (n ≥ 3, H, W), got {truth.shape} and {prediction.shape}")
    objects = count_objects(truth[0])
    if (highest := int(prediction[1:-1].max())) > objects:
        raise ValueError(f"the prediction holds id {highest}, the first true mask none above {objects}")
    J, F = np.array([score_frame(*pair, objects) for pair in zip(truth[1:-1], prediction[1:-1])]).transpose(1, 2, 0)
    return J, F


@dataclass(frozen=True)
class Scores:
    """J and F of every object and scored frame: sequence → (J, F), each (objects, frames - 2), values in 0 … 1."""

    sequences: dict[str, tuple[np.ndarray, np.ndarray]]

    def rows(self) -> list[dict[str, str | int | float]]:
        """One row an object: sequence, object, then mean, recall and decay of J and of F (0 … 1)."""
        return [
            {"sequence": name, "object": number}
            | {
                f"{letter}-{key}": statistic(values)
                for letter, values in zip("JF", measures, strict=True)
                for key, statistic in STATISTICS.items()
            }
            for name, both in self.sequences.items()
            for number, measures in enumerate(zip(*both, strict=True), 1)
        ]

    def summary(self, sequence: str | None = None) -> dict[str, float]:
        """The figures :data:`GLOBAL` (0 … 1): means over all objects pooled, or over those of one sequence."""
        chosen = self if sequence is None else Scores({sequence: self.sequences[sequence]})
        return {name: value / 100 for name, value in zip(GLOBAL, VIDEO.evaluate(chosen.units()).values(), strict=True)}

    def units(self) -> dict[str, np.ndarray]:
        """Long arrays, one entry an object and frame: sequence, object, frame (0 is the given one), J, F (0 … 1)."""
        parts = []
        for name, (J, F) in self.sequences.items():
            objects, frames = np.indices(J.shape) + 1
            parts.append((np.full(J.size, name), objects.ravel(), frames.ravel(), J.ravel(), F.ravel()))
        return dict(zip(("sequence", "object", "frame", "J", "F"), map(np.concatenate, zip(*parts)), strict=True))

    def to_json(self) -> dict:
        """``sequences`` → name → J and F, a list an object; ``global`` → the summary."""
        sequences = {name: {"J": J.tolist(), "F": F.tolist()} for name, (J, F) in self.sequences.items()}
        return {"sequences": sequences, "global": self.summary()}

    def to_csv(self) -> str:
        text, rows = io.StringIO(), self.rows()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def find_sequences(root: Path, split: str = "val") -> tuple[Path, list[str]]:
    """The folder that holds one folder of masks a sequence, and the sequences to score, of a data set's root.

    A root with ``Annotations/480p`` (or ``Annotations/Full-Resolution``) is DAVIS's, and
    ``ImageSets/2017/<split>.txt`` lists its sequences; else every folder in ``root`` that holds PNGs is a sequence.
    Raises UserError where there is none.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give a DAVIS root or a folder with one folder of masks a sequence")
    if not (root / "Annotations").is_dir():
        names = [folder.name for folder in folders_in(root) if _masks(folder)]
        if not names:
            raise UserError(f"{root}: neither Annotations/480p nor a folder with PNG masks in it")
        return root, names
    folders = [root / "Annotations" / name for name in ("480p", "Full-Resolution")]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise UserError(f"{root / 'Annotations'}: holds neither 480p nor Full-Resolution, so there is no ground truth")
    listing = root / "ImageSets" / "2017" / f"{split}.txt"
    if not listing.is_file():
        raise UserError(f"{listing}: no such list of sequences; choose another --split, or give {folder} to score all")
    return folder, read_lines(listing)


def _masks(folder: Path) -> dict[str, Path]:
    """Name without ending → path of every PNG in a folder, in the order of the numbers in their names."""
    return list_files(folder, [".png"], deep=False).by_stem()


def check_sequence(truth: Path, prediction: Path) -> list[tuple[Path, Path | None]]:
    """(true mask, predicted mask) of each frame of a sequence, after all that can be told without decoding predictions.

    The first and the last frame are not scored: of them None stands for a prediction that is not there.

    Raises UserError, naming the file, for a missing folder or scored frame, another size, a mask that holds no ids,
    fewer than 3 frames, and a first true mask without objects.
    """
    for folder in (truth, prediction):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; every sequence that is scored needs its masks there")
    masks, predicted = _masks(truth), _masks(prediction)
    if len(masks) < 3:
        raise UserError(f"{truth}: {len(masks)} masks; at least 3 are needed, as the first and the last are not scored")
    pairs = [(path, predicted.get(stem)) for stem, path in masks.items()]
    first = read_labels(pairs[0][0])
    if not count_objects(first):
        void = " but 255, which is void in DAVIS 2017 (0/255 masks are DAVIS 2016's: write 1 for 255)"
        raise UserError(f"{pairs[0][0]}: no object in the first mask{void if (first == VOID).any() else ''}")
    for true, mask in pairs[1:-1]:
        if mask is None:
            wanted = prediction / true.name
            raise UserError(f"{wanted}: this frame is missing; the ground truth has it, so the prediction must")
        for path in (true, mask):
            if (size := labels_size(path)) != first.shape:
                size, wanted = ("{}x{}".format(*s[::-1]) for s in (size, first.shape))
                raise UserError(f"{path}: {size} pixels, but the first true mask of the sequence has {wanted}")
    return pairs


def remarks(truth: Path, prediction: Path, sequences: Sequence[str]) -> list[str]:
    """What a reader of the figures should know, a line each, of sequences that :func:`check_sequence` takes."""
    lines, lacking = [], []
    for name in sequences:
        masks = _masks(truth / name)
        lacking += [name] * (not masks.keys() <= _masks(prediction / name).keys())
        first = next(iter(masks.values()))
        ids = set(np.unique(read_labels(first)).tolist()) - {0, VOID}
        if gaps := set(range(1, max(ids))) - ids:
            lines.append(f"{first} skips {len(gaps)} object ids: each counts as one that is never there (J = F = 1)")
    if lacking:
        which = listed(lacking)
        lines.append(f"the first or the last predicted mask is not there, and not scored either: {which}")
    return lines


def _score_sequence_folder(pairs: Sequence[tuple[Path, Path | None]]) -> tuple[np.ndarray, np.ndarray]:
    """J and F, each (objects, n - 2), read frame by frame; raises UserError for an id that cannot be."""
    first, scored = pairs[0][0], pairs[1:-1]
    objects = count_objects(read_labels(first))
    J, F = np.empty((2, objects, len(scored)))
    for index, (true, mask) in enumerate(scored):
        predicted = read_labels(mask)
        if (highest := int(predicted.max())) > objects:
            hint = "; 0/255 masks are DAVIS 2016's: write 1 for 255" if highest == VOID else ""
            raise UserError(f"{mask}: unknown id {highest}, the highest in {first} is {objects}{hint}")
        J[:, index], F[:, index] = score_frame(read_labels(true), predicted, objects)
    return J, F


def score_folder(
    truth: Path,
    prediction: Path,
    sequences: Sequence[str],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score ``prediction/<sequence>/*.png`` against ``truth/<sequence>/*.png``; everything is checked beforehand.

    ``progress(frames done, frames in all)`` is called after each sequence. Raises UserError as `check_sequence` does,
    and for a predicted id above the highest one of the first true mask.
    """
    jobs = {name: check_sequence(truth / name, prediction / name) for name in sequences}
    total, done, results = sum(map(len, jobs.values())), 0, {}
    workers = min(workers, len(jobs), 1 + total // 300)  # starting a process costs as much as some hundred frames
    with ExitStack() as stack:
        run = map
        if workers > 1:  # spawned: forking a process that runs threads (torch, a progress bar) can hang
            spawn = multiprocessing.get_context("spawn")
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn)).map
        for name, result in zip(jobs, run(_score_sequence_folder, jobs.values()), strict=True):
            results[name] = result
            done += len(jobs[name])
            if progress:
                progress(done, total)
    return Scores(results)


def official_scores(truth: Path, prediction: Path, sequences: Sequence[str]) -> dict:
    """What the official evaluation (the package ``davis2017``) computes: ``global`` and the mean of each object.

    It wants a whole DAVIS tree at 480p, images included, though it never opens those: it gets one of links. Raises
    UserError where the package cannot be imported, or gives up.
    """
    DAVISEvaluation = _require_official()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "Annotations").mkdir()
        (root / "Annotations" / "480p").symlink_to(truth.resolve(), target_is_directory=True)
        write_text(root / "ImageSets" / "2017" / "val.txt", "\n".join(sequences) + "\n")
        for name in sequences:
            write_text(root / "JPEGImages" / "480p" / name / "00000.jpg", "")
        try:
            evaluation = DAVISEvaluation(davis_root=str(root), task="semi-supervised", gt_set="val")
            result = evaluation.evaluate(str(prediction.resolve()))
        except (ImportError, AttributeError, SystemExit) as error:  # it exits by itself, and with status 0
            raise UserError(f"--official: the davis2017 package gave up ({error!r}); {OFFICIAL}") from error
    J, F = ([float(np.mean(result[letter][key])) for key in "MRD"] for letter in "JF")
    objects = {letter: {name: float(mean) for name, mean in result[letter]["M_per_object"].items()} for letter in "JF"}
    return {"global": dict(zip(GLOBAL, [(J[0] + F[0]) / 2, *J, *F], strict=True)), "per_object": objects}


def _require_official() -> type:
    try:
        from davis2017.evaluation import DAVISEvaluation
    except ImportError as error:
        raise UserError(f"--official: {error}; {OFFICIAL}") from error
    return DAVISEvaluation


def _table(scores: Scores, official: dict | None) -> str:
    """The figures in per cent: a line a sequence, a line for all objects together."""
    lines = {name: scores.summary(name) for name in scores.sequences}
    lines[f"all {len(scores.rows())} objects"] = scores.summary()
    if official:
        lines["official evaluation"] = official["global"]
    rows = [[name, *(f"{100 * value:.2f}" for value in line.values())] for name, line in lines.items()]
    return tabulate(rows, ["", *GLOBAL], "plain", colalign=["left", *["right"] * len(GLOBAL)], disable_numparse=True)


def main(argv: Sequence[str]) -> None:
    """The command: score a folder of masks, write scores.json and scores.csv, print the figures."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("truth", metavar="GT", type=Path, help="a DAVIS root, or a folder of sequences")
    parser.add_argument("prediction", metavar="PRED", type=Path, help="a folder with a folder of masks a sequence")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where scores.json and scores.csv go")
    parser.add_argument("--split", default="val", help="of a DAVIS root: the list ImageSets/2017/<split>.txt")
    parser.add_argument("--official", action="store_true", help="score with the davis2017 package too, and store both")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that share the sequences")
    args = parser.parse_args(argv)

    raise_unless_writable(args.out, "--out")
    truth, sequences = find_sequences(args.truth, args.split)
    if args.official:
        _require_official()
    with Meter("scoring", 0, "frames", summary=False) as meter:
        scores = score_folder(truth, args.prediction, sequences, args.workers, meter.update)
    content = scores.to_json()
    if args.official:
        content["official"] = official_scores(truth, args.prediction, sequences)
    write_text(args.out / "scores.csv", scores.to_csv())
    write_text(args.out / "scores.json", json.dumps(content) + "\n")
    for line in remarks(truth, args.prediction, sequences):
        print(f"note: {line}")
    print(_table(scores, content.get("official")))
    print(f"per cent; every J and F in {args.out / 'scores.json'}, a row an object in {args.out / 'scores.csv'}")


if __name__ == "__main__":
    run_command(main)
