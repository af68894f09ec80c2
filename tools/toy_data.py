"""Write the toy world to disk: pretraining images, a DAVIS tree, a COCO set and an ADE20K-style set."""

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as rle
from toy_scene import GROUND_CLASSES, THING_CLASSES, Frame, Scene, World

from selfpatch.eval.datasets.davis import davis_palette
from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.pretrain.files import write_text
from selfpatch.pretrain.progress import Meter

GENERATOR = 3  # raise it whenever the same parameters would give other bytes
PARTS = ("images", "DAVIS", "coco", "ade20k")
FINGERPRINT = "toy.json"  # written last: it says that everything else is there
UNFINISHED = ".toy-unfinished"  # written first: it says that the folder is ours to redo
KINDS = {  # of images: their number in a random address (no set's images depend on another's size), their count's name
    "images": (1, "images"),
    "davis train": (2, "davis_train"),
    "davis val": (3, "davis_val"),
    "coco train2017": (4, "coco_train"),
    "coco val2017": (5, "coco_val"),
    "ade training": (6, "ade_train"),
    "ade validation": (7, "ade_val"),
}
SMALLEST_INSTANCE = 48  # pixels; what shows less of itself is no COCO instance

DESCRIPTION = """\
Make the toy world: patterned things that move, turn, bend and hide one another under light and noise that mislead.

Written under --out, about 30 MB in half a minute:
  images/    pretraining images: an image folder of JPEGs
  DAVIS/     videos with 2 to 4 objects: JPEGImages/480p, Annotations/480p, ImageSets/2017
  coco/      instance segmentation: annotations/instances_{train,val}2017.json, train2017, val2017
  ade20k/    semantic segmentation: images, annotations (0 = unlabelled), classes.json
  toy.json   the parameters, written last

The same parameters give the same bytes; a folder that already holds exactly this data is left alone. No figure
measured here says anything about a real benchmark.

examples:
  python tools/toy_data.py --out data/toy
  python tools/toy_data.py --out /tmp/harder --seed 7 --set speed=9 --set noise=90
"""


def option(default: object, help: str) -> object:
    """A field of a plan that is an option of the command line."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Plan:
    """What to write: the counts and sizes of the four sets and the world they show."""

    seed: int = option(0, "another seed, another world")
    images: int = option(800, "pretraining images")
    image_size: tuple[int, int] = option((96, 96), "pixels of the pretraining images")
    davis_train: int = option(1, "sequences in DAVIS' train.txt")
    davis_val: int = option(6, "sequences in DAVIS' val.txt")
    frames: int = option(16, "frames a sequence")
    davis_size: tuple[int, int] = option((320, 192), "pixels of the sequences")
    coco_train: int = option(120, "images in coco/train2017")
    coco_val: int = option(40, "images in coco/val2017")
    ade_train: int = option(80, "images in ade20k/images/training")
    ade_val: int = option(40, "images in ade20k/images/validation")
    scene_size: tuple[int, int] = option((256, 224), "pixels of the COCO and ADE20K images")
    world: World = field(default_factory=World)

    def fingerprint(self) -> dict:
        """Everything that the bytes depend on, as it stands in ``toy.json``."""
        return json.loads(json.dumps({"generator": GENERATOR, **asdict(self)}))


class Job(NamedTuple):
    """What a worker writes on its own: an image with its annotation, or a whole sequence."""

    kind: str  # a key of KINDS; its first word names the writer, its second the split
    index: int


# --- files of one job -------------------------------------------------------------------------------------


def _save(path: Path, image: np.ndarray, palette: tuple[int, ...] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    if palette is not None:
        picture.putpalette(palette)
    # colours are what matters here: they stay at full resolution
    picture.save(path, **({"compress_level": 6} if path.suffix == ".png" else {"quality": 92, "subsampling": 0}))


def _scene(plan: Plan, job: Job, size: tuple[int, int], frames: int = 1) -> Scene:
    return Scene((plan.seed, KINDS[job.kind][0], job.index), size, plan.world, frames)


def write_image(root: Path, plan: Plan, job: Job) -> None:
    """One pretraining image."""
    world = replace(plan.world, things_min=1, things_max=1, size_min=0.6, size_max=0.9)  # as photographs show things
    scene = Scene((plan.seed, KINDS[job.kind][0], job.index), plan.image_size, world)
    _save(root / f"images/scenes/{job.index:05d}.jpg", scene.render(0).image)


def write_davis(root: Path, plan: Plan, job: Job) -> str:
    """One sequence with its masks; returns its name."""
    name = f"toy-{job.kind.split()[1]}-{job.index:02d}"
    scene, palette = _scene(plan, job, plan.davis_size, plan.frames), davis_palette()
    for t in range(plan.frames):
        frame = scene.render(t)
        _save(root / "DAVIS/JPEGImages/480p" / name / f"{t:05d}.jpg", frame.image)
        _save(root / "DAVIS/Annotations/480p" / name / f"{t:05d}.png", frame.things, palette)
    return name


def coco_instances(frame: Frame, kinds: Sequence[int]) -> list[dict]:
    """Annotations of what is visible of each thing, as run-length masks; without ids."""
    instances = []
    for number, kind in enumerate(kinds, start=1):
        visible = frame.things == number
        if visible.sum() < SMALLEST_INSTANCE:
            continue
        encoded = rle.encode(np.asfortranarray(visible, dtype=np.uint8))
        instances.append(
            {
                "category_id": kind + 1,
                "bbox": rle.toBbox(encoded).tolist(),  # x, y, width, height
                "area": float(visible.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(visible.shape), "counts": encoded["counts"].decode("ascii")},
            }
        )
    return instances


def write_coco(root: Path, plan: Plan, job: Job) -> list[dict]:
    """One COCO image; returns its instances."""
    scene = _scene(plan, job, plan.scene_size)
    frame = scene.render(0)
    _save(root / "coco" / job.kind.split()[1] / f"{job.index + 1:012d}.jpg", frame.image)
    return coco_instances(frame, [thing.kind for thing in scene.things])


def write_ade(root: Path, plan: Plan, job: Job) -> None:
    """One ADE20K-style image with its label map."""
    frame = _scene(plan, job, plan.scene_size).render(0)
    split = job.kind.split()[1]
    name = f"toy_{split}_{job.index:05d}"
    _save(root / "ade20k/images" / split / f"{name}.jpg", frame.image)
    _save(root / "ade20k/annotations" / split / f"{name}.png", frame.classes)


WRITERS = {"images": write_image, "davis": write_davis, "coco": write_coco, "ade": write_ade}


def _run(task: tuple[Path, Plan, Job]) -> object:
    cv2.setNumThreads(1)  # a process a core
    root, plan, job = task
    return WRITERS[job.kind.split()[0]](root, plan, job)


# --- files of a whole set ---------------------------------------------------------------------------------


def write_indices(root: Path, plan: Plan, results: dict[Job, object]) -> None:
    """The files that list others: ImageSets, instances_*.json, classes.json."""
    for split in ("train", "val"):
        names = [name for job, name in results.items() if job.kind == f"davis {split}"]
        if names:
            write_text(root / f"DAVIS/ImageSets/2017/{split}.txt", "".join(f"{name}\n" for name in names))
        folder = f"{split}2017"
        images = [(job, found) for job, found in results.items() if job.kind == f"coco {folder}"]
        if images:
            document = coco_document(images, plan.scene_size)
            write_text(root / f"coco/annotations/instances_{folder}.json", json.dumps(document))
    if plan.ade_train or plan.ade_val:
        names = [*THING_CLASSES, *GROUND_CLASSES]  # the name of label i stands at i - 1
        write_text(root / "ade20k/classes.json", json.dumps(names))


def coco_document(images: list[tuple[Job, list[dict]]], size: tuple[int, int]) -> dict:
    """The content of an ``instances_*.json`` for images of ``size`` (width, height)."""
    entries, annotations = [], []
    for job, instances in images:
        image_id = job.index + 1
        name = f"{image_id:012d}.jpg"
        entries.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for instance in instances:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **instance})
    categories = [{"id": i, "name": name} for i, name in enumerate(THING_CLASSES, start=1)]
    info = {"description": "toy world of tools/toy_data.py: no benchmark"}
    return {"info": info, "images": entries, "annotations": annotations, "categories": categories}


def listing_digest(root: Path) -> str:
    """SHA-256 over all files' names and sizes: cheap, and a lost or cut file changes it."""
    files = (path for part in PARTS for path in (root / part).rglob("*") if path.is_file())
    lines = sorted(f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def is_complete(root: Path, plan: Plan) -> bool:
    """Whether ``root`` already holds exactly the data of ``plan``."""
    try:
        stored = json.loads((root / FINGERPRINT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return stored == {**plan.fingerprint(), "listing": listing_digest(root)}


def clear_for(root: Path) -> None:
    """Make ``root`` ready to be written; raises UserError where it holds something that is not toy data."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file; give a folder with --out")
    if root.is_dir() and any(root.iterdir()):
        if not ((root / FINGERPRINT).exists() or (root / UNFINISHED).exists()):
            raise UserError(f"{root} holds something else than toy data; give a new folder with --out")
        print(f"{root} holds other or unfinished toy data: it is made anew", flush=True)
    write_text(root / UNFINISHED, "toy data is being written, or was stopped while it was\n")
    (root / FINGERPRINT).unlink(missing_ok=True)
    for part in PARTS:
        if (root / part).exists():
            shutil.rmtree(root / part)


def generate(root: Path, plan: Plan, workers: int = 1) -> bool:
    """Write ``plan`` under ``root``; False if it was there already."""
    if is_complete(root, plan):
        return False
    clear_for(root)
    jobs = [Job(kind, i) for kind, (_, count) in KINDS.items() for i in range(getattr(plan, count))]
    # sequences first: they are the longest jobs, and a long one at the end would keep one core waiting
    queue = sorted(jobs, key=lambda job: not job.kind.startswith("davis"))
    results: dict[Job, object] = {}
    pool, tasks = nullcontext(), [(root, plan, job) for job in queue]
    if workers > 1:  # fork: the other ways would import everything again in each worker
        pool = multiprocessing.get_context("fork").Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    with Meter("toy world", len(jobs), "scenes") as meter, pool as processes:  # on Ctrl-C this process alone speaks
        for job, result in zip(queue, (processes.imap if processes else map)(_run, tasks), strict=True):
            results[job] = result
            meter.advance()
    write_indices(root, plan, {job: results[job] for job in jobs})
    fingerprint = {**plan.fingerprint(), "listing": listing_digest(root)}
    write_text(root / FINGERPRINT, json.dumps(fingerprint, indent=2) + "\n")
    (root / UNFINISHED).unlink(missing_ok=True)
    return True


# --- command line -----------------------------------------------------------------------------------------


def _size(text: str) -> tuple[int, int]:
    """``WIDTHxHEIGHT`` or one number for a square."""
    try:
        width, _, height = text.lower().partition("x")
        return int(width), int(height or width)
    except ValueError:
        raise UserError(f"'{text}' is no size; give WIDTHxHEIGHT, e.g. 320x192") from None


def world_of(settings: Sequence[str]) -> World:
    """The default world with ``NAME=VALUE`` changes."""
    types = {entry.name: type(entry.default) for entry in fields(World)}
    changes = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in types:
            raise UserError(f"--set {setting}: the world has no '{name}'; it has {', '.join(types)}")
        try:
            changes[name] = types[name](value)
        except ValueError:
            raise UserError(f"--set {setting}: '{value}' is no {types[name].__name__}") from None
    return World(**changes)


def check(plan: Plan) -> None:
    """Raise UserError where a plan cannot be drawn."""
    for name, value in asdict(plan).items():
        if isinstance(value, int) and value < 0:
            raise UserError(f"--{name.replace('_', '-')} {value}: give 0 or more")
        if isinstance(value, tuple) and not 64 <= min(value) <= max(value) <= 4096:
            raise UserError(f"--{name.replace('_', '-')}: give 64 to 4096 pixels each way")
    if plan.frames < 3:
        raise UserError(f"--frames {plan.frames}: give at least 3, since a sequence's ends are not scored")
    world = plan.world
    for name, value in asdict(world).items():
        if not 0 <= value < math.inf:
            raise UserError(f"--set {name}={value}: give a finite number, 0 or more")
    for name, least, most in (("things", 1, 100), ("size", 0.05, 1.0), ("wavelength", 2.0, 1000.0)):
        low, high = getattr(world, f"{name}_min"), getattr(world, f"{name}_max")
        if not least <= low <= high <= most:
            raise UserError(f"--set {name}_min={low}, {name}_max={high}: give {least} <= min <= max <= {most}")
    if world.chroma > 0.4:
        raise UserError(f"--set chroma={world.chroma}: give 0 to 0.4, a share of full brightness")


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("--out", type=Path, default=Path("data/toy"), help="the folder to write")
    options = [entry for entry in fields(Plan) if "help" in entry.metadata]
    for entry in options:
        kind, default, metavar = (int, entry.default, "N")
        if isinstance(default, tuple):
            kind, default, metavar = (str, "{}x{}".format(*default), "WxH")
        flag = f"--{entry.name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=default, metavar=metavar, help=entry.metadata["help"])
    world = "change the world: " + ", ".join(f"{entry.name}={entry.default}" for entry in fields(World))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=world)
    cores = min(2, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help="processes")
    given = parser.parse_args(argv)

    values = {entry.name: getattr(given, entry.name) for entry in options}
    values = {name: _size(value) if isinstance(value, str) else value for name, value in values.items()}
    plan = Plan(**values, world=world_of(given.set))
    check(plan)
    if given.workers < 1:
        raise UserError(f"--workers {given.workers}: give 1 or more")
    started = time.monotonic()
    try:
        written = generate(given.out, plan, given.workers)
    except OSError as error:  # no room, no permission
        raise UserError(f"{error.filename or given.out}: {error.strerror}; see --out") from error
    if written:
        print(f"toy world written to {given.out} in {time.monotonic() - started:.0f} s")
    else:
        print(f"toy world: {given.out} already holds exactly this data")


if __name__ == "__main__":
    run_command(main)
