"""Full-size rehearsals without the data: what the doctor and the scorer cost on sets as large as the real ones.

    .venv/bin/python tests/rehearsal.py imagenet      1,281,167 hard-linked images in 1000 classes
    .venv/bin/python tests/rehearsal.py coco          files of COCO's sizes, 118,287 + 5,000 hard-linked photographs
    .venv/bin/python tests/rehearsal.py scores        500,000 detections on 5,000 images with 36,781 instances

Each makes its input in a temporary folder, runs the command in a process of its own, and prints its seconds, those on a
processor, and the most memory that it held. ``--share 0.01`` makes everything a hundredth as large.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, CLASSES = 1_281_167, 1000  # of ImageNet
IMAGES = {"train": 118_287, "val": 5_000}  # of COCO
INSTANCES = {"train": 860_001, "val": 36_781}
CATEGORIES, DETECTIONS, SIDE = 80, 500_000, 640
SCORER = "the scorer"


def imagenet(root: Path, share: float) -> list[str]:
    """A folder of classes, every image one file; and the doctor's command on it."""
    photograph(root / "photograph.jpg", 500, 375)
    classes = max(2, round(CLASSES * min(1, share * 10)))
    each = max(1, round(TRAIN * share / classes))
    for number in range(classes):
        folder = root / f"train/n{number:08}"
        folder.mkdir(parents=True)
        source = copy(root, number // 40)
        for image in range(each):
            os.link(source, folder / f"{image}.JPEG")
    return ["selfpatch.eval.command", "data", "imagenet", "--data", str(root)]


def copy(root: Path, number: int) -> Path:
    """Another copy of the photograph: a file can only have so many names."""
    path = root / f"photograph-{number}.jpg"
    if not path.exists():
        path.write_bytes((root / "photograph.jpg").read_bytes())
    return path


def coco(root: Path, share: float) -> list[str]:
    """Two annotation files with COCO's numbers of entries, hard-linked photographs; and the doctor's command."""
    rng = np.random.default_rng(0)
    for split, images in IMAGES.items():
        folder = root / f"{split}2017"
        folder.mkdir(parents=True)
        content = annotations(rng, max(8, round(images * share)), max(80, round(INSTANCES[split] * share)))
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
        photograph(root / f"{split}.jpg", SIDE, SIDE * 3 // 4)
        for number, image in enumerate(content["images"]):
            if number % 30_000 == 0:
                source = root / f"{split}-{number}.jpg"
                source.write_bytes((root / f"{split}.jpg").read_bytes())
            os.link(source, folder / image["file_name"])
    return ["selfpatch.eval.command", "data", "coco", "--data", str(root)]


def scores(root: Path, share: float) -> list[str]:
    """An annotation file and detections, most of them near an instance; and the command that scores them."""
    rng = np.random.default_rng(0)
    truth = annotations(rng, max(8, round(5_000 * share)), max(80, round(INSTANCES["val"] * share)))
    (root / "truth.json").write_text(json.dumps(truth))
    return [SCORER, str(root / "truth.json"), str(share)]


def annotations(rng: np.random.Generator, images: int, instances: int) -> dict:
    """The content of an annotation file: polygons of about 25 points, as COCO's have."""
    height, width = SIDE * 3 // 4, SIDE
    entries = []
    owners = np.sort(rng.integers(0, images, instances))
    for number, owner in enumerate(owners.tolist(), 1):
        polygon = blob(rng, width, height)
        low, high = polygon.min(0), polygon.max(0)
        w, h = (high - low).tolist()
        entries.append(
            {
                "segmentation": [polygon.round(2).ravel().tolist()],
                "area": round(w * h * 0.7, 4),
                "iscrowd": 0,
                "image_id": owner + 1,
                "bbox": [*low.round(2).tolist(), round(w, 2), round(h, 2)],
                "category_id": int(rng.integers(1, CATEGORIES + 1)),
                "id": number,
            }
        )
    listed = [
        {"id": i, "file_name": f"{i:012}.jpg", "height": height, "width": width, "date_captured": "2013-11-18 02:53:27"}
        for i in range(1, images + 1)
    ]
    return {
        "images": listed,
        "annotations": entries,
        "categories": [{"id": i, "name": f"class {i}", "supercategory": "thing"} for i in range(1, CATEGORIES + 1)],
    }


def blob(rng: np.random.Generator, width: int, height: int, points: int = 25) -> np.ndarray:
    """A polygon (points, 2) inside an image."""
    radius = rng.uniform(8, height / 4)
    centre = rng.uniform(radius, (width - radius, height - radius))
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = radius * rng.uniform(0.6, 1, points)
    return centre + np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)


def score_it(truth_file: str, share: str) -> None:
    """Score random detections, in this process."""
    from pycocotools import mask as rle

    from selfpatch.eval.dense.coco_metric import score

    truth = json.loads(Path(truth_file).read_text())
    rng = np.random.default_rng(1)
    height, width = SIDE * 3 // 4, SIDE
    made = rle.frPyObjects([a["segmentation"][0] for a in truth["annotations"]], height, width)
    detections = []
    for number in range(max(100, round(DETECTIONS * float(share)))):
        which = number % len(made)
        near = truth["annotations"][which]
        shift = rng.normal(0, 3, 4)
        detections.append(
            {
                "image_id": near["image_id"],
                "category_id": near["category_id"] if rng.random() < 0.5 else int(rng.integers(1, CATEGORIES + 1)),
                "score": float(rng.random()),
                "bbox": [float(v) for v in np.array(near["bbox"]) + shift],
                "segmentation": dict(made[which]),
            }
        )
    before, started = peak_gb(), time.perf_counter()
    found = score(truth, detections)
    print(f"AP {found.metrics['bbox AP']:.4f}, mask AP {found.metrics['mask AP']:.4f}")
    print(f"scored {len(detections)} detections in {time.perf_counter() - started:.1f} s; {before:.2f} GB held before")


def photograph(path: Path, width: int, height: int) -> None:
    """A small JPEG of these sides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 60)).save(path)


def measured(module: str, *words: str) -> None:
    """Run a module as a command, or score, in this process; then say how much memory it held."""
    try:
        if module == SCORER:
            score_it(*words)
        else:
            sys.argv = [module, *words]
            runpy.run_module(module, run_name="__main__")
    finally:
        print(f"{peak_gb():.2f} GB")


def peak_gb() -> float:
    """The most memory that this program has held; a process's own count begins with that of its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


REHEARSALS: dict[str, Callable[[Path, float], list[str]]] = {"imagenet": imagenet, "coco": coco, "scores": scores}


def main() -> None:
    """Make, run, measure."""
    if sys.argv[1:2] == ["measured"]:
        measured(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(REHEARSALS))
    parser.add_argument("--share", type=float, default=1.0, help="of the real size")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        command = REHEARSALS[given.what](Path(folder), given.share)
        started = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, "measured", *command], capture_output=True, text=True)
        seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout.replace(folder, "…")[-2000:], done.stderr[-2000:], sep="")
    busy = used.ru_utime + used.ru_stime
    print(f"{given.what}: exit status {done.returncode}, {seconds:.1f} s, {busy:.1f} s on a processor")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
