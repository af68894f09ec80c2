"""Feeds the readers mutated files: whatever stands in them, a reader gives a result or one line, never anything else.

    .venv/bin/python tests/fuzz/readers.py --cases 20000            all kinds, about 25 minutes on one core
    .venv/bin/python tests/fuzz/readers.py --cases 500 --kind json  one of them

Files are sound pictures, label maps, COCO annotation files, lists, checkpoints and records to which hypothesis does
what disks, programs and people do: flipped bytes, truncation, doubled and zeroed parts, wrong types, deep nesting,
absurd sizes. This process may hold :data:`MEMORY` bytes more than at its start, a case may take :data:`SECONDS`, and a
checkpoint that tries to run code would leave a file. The exit status is 0 if nothing but results and
:class:`UserError` came out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.datasets import ade20k, coco, davis
from selfpatch.eval.measures.jf import find_sequences
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import read_json, read_lines
from selfpatch.pretrain.images import labels_size, read_header, read_labels, read_picture
from selfpatch.pretrain.vit import VisionTransformer
from selfpatch.reports.record import Record

MEMORY = 3 << 30  # bytes
SECONDS = 20
WORK = Path(tempfile.mkdtemp(prefix="fuzz-"))
CANARY = WORK / "code-was-run"
ABSURD = [0, -1, 1, 255, 256, 65535, 1 << 31, (1 << 31) - 1, 1 << 63, 1 << 64, 10**30, -(10**30), 1e308, -1e308, 0.5]
DEEP = "a place where lists lie in lists"
OUTCOMES: Counter[str] = Counter()


# --- sound files -----------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pictures() -> list[bytes]:
    """A picture of every kind that is read."""
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 255, (23, 31, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = cv2.imencode(".png", np.asarray(scene).astype(np.uint16) * 257)[1].tobytes()
    grey = cv2.imencode(".png", np.asarray(scene)[:, :, 0].astype(np.uint16) * 257)[1].tobytes()
    found = [encoded(scene, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")]
    found += [encoded(scene, "JPEG", exif=exif.tobytes(), progressive=True, subsampling=0), deep, grey]
    found += [encoded(scene.convert(mode), "PNG") for mode in ("L", "P", "RGBA", "LA", "1")]
    found += [encoded(scene.convert("CMYK"), "JPEG"), encoded(scene, "WEBP", lossless=True)]
    return [*found, encoded(scene, "TIFF", compression="tiff_lzw"), encoded(scene, "TIFF", compression="jpeg")]


def label_maps() -> list[bytes]:
    """Label maps: palette, grey, of few bits and of many."""
    numbers = (np.arange(23 * 31).reshape(23, 31) % 5).astype(np.uint8)
    palette = Image.fromarray(numbers).convert("P")
    deep = cv2.imencode(".png", numbers.astype(np.uint16))[1].tobytes()
    found = [encoded(Image.fromarray(numbers), kind) for kind in ("PNG", "TIFF", "GIF", "BMP")]
    return [*found, encoded(palette, "PNG"), encoded(palette, "PNG", bits=4), deep]


def annotations() -> dict:
    """A COCO annotation file's content with a polygon, packed runs and runs."""
    box = {"bbox": [4.0, 4.0, 10.0, 8.0], "area": 80.0, "iscrowd": 0, "category_id": 1, "image_id": 1}
    polygon = [4, 4, 14, 4, 14, 12, 4, 12]
    runs = [31 * 4 + 4] + [8, 23] * 9 + [8]
    runs.append(31 * 23 - sum(runs))
    masks = [[polygon], {"size": [23, 31], "counts": runs}, [polygon, polygon]]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 31, "height": 23} for i in (1, 2)],
        "annotations": [{**box, "id": i, "segmentation": mask} for i, mask in enumerate(masks, 1)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


class RunsCode:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(CANARY),))


def network() -> dict[str, torch.Tensor]:
    """The tensors of a small backbone."""
    torch.manual_seed(0)
    return VisionTransformer(embed_dim=12, depth=1, heads=2, img_size=16, patch_size=8).state_dict()


# --- what happens to them --------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: Callable, sound: list[bytes]) -> bytes:
    """One of some sound files after one to four accidents."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        place = draw(st.integers(0, len(data) - 1))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(["flip", "cut", "zero", "double", "insert", "size"])):
            case "flip":
                for offset in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)):
                    data[offset] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[place:]
            case "zero":
                data[place : place + length] = bytes(len(data[place : place + length]))
            case "double":
                data[place:place] = data[place : place + length]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "size":  # a number of 4 bytes in a header becomes absurd
                head = draw(st.integers(0, min(64, len(data))))
                data[head : head + 4] = draw(
                    st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\0" * 4])
                )
    return bytes(data)


VALUES = st.one_of(
    st.sampled_from(
        [*ABSURD, float("nan"), float("inf"), None, True, False, "", "\0", "\ud800", [], {}, [[]], "x" * 5000]
    ),
    st.text(max_size=8),
    st.recursive(st.integers() | st.floats(), lambda inner: st.lists(inner, max_size=3), max_leaves=6),
)


def spots(node: Any, path: tuple = ()) -> list[tuple]:
    """The places of all values in nested lists and dictionaries."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in inside for found in [(*path, key), *spots(value, (*path, key))]]


@st.composite
def altered(draw: Callable, sound: Any) -> bytes:
    """JSON of which one to three values became another, are gone, or lie in many lists."""
    content = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        places = spots(content)
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        node = content
        for key in path:
            node = node[key]
        match draw(st.sampled_from(["change", "change", "change", "remove", "deep", "double"])):
            case "change":
                node[last] = draw(VALUES)
            case "remove":
                del node[last]
            case "deep":
                node[last] = DEEP
            case "double" if isinstance(node, list):
                node.append(node[last])
    depth = draw(st.sampled_from([1, 50, 900, 5000, 200_000]))
    return text_of(content).replace(text_of(DEEP), b"[" * depth + b"]" * depth)


def text_of(content: Any) -> bytes:
    """JSON, even of what is none."""
    return json.dumps(content).encode("utf-8", "surrogatepass")


# --- readers ---------------------------------------------------------------------------------------------------------


def put(name: str, data: bytes) -> Path:
    """A file in the working folder."""
    path = WORK / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def try_out(*readers: Callable[[], Any]) -> None:
    """Call readers; a result and a :class:`UserError` of one line are right, anything else goes on as it is."""
    for reader in readers:
        said = ""
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                reader()
            except UserError as error:
                said = str(error)
        OUTCOMES["refused" if said else "result"] += 1
        assert "\n" not in said, f"more than a line: {said!r}"
    assert not CANARY.exists(), "code was run"


def picture(data: bytes) -> None:
    """Every way in which a picture is read."""
    path = put("x.jpg", data)
    try_out(
        lambda: read_header(path, decode=True),
        lambda: read_picture(path),
        lambda: read_picture(data, size=(31, 23), reduction=4),
    )


def label_map(data: bytes) -> None:
    """Every way in which a label map is read."""
    path = put("x.png", data)
    try_out(lambda: read_labels(path), lambda: labels_size(path))


def annotation_file(data: bytes) -> None:
    """A set with one odd annotation file: looked at, and opened."""
    root = WORK / "coco"
    if not (root / "val2017").exists():
        for split in ("train", "val"):
            for number in (1, 2):
                put(f"coco/{split}2017/{number}.png", encoded(Image.new("RGB", (31, 23)), "PNG"))
        put("coco/annotations/instances_train2017.json", text_of(annotations()))
    put("coco/annotations/instances_val2017.json", data)
    try_out(lambda: coco.check(root, thorough=True), lambda: coco.open_instances(root).identity)


def listing(data: bytes) -> None:
    """Lists of names, of sequences and of classes."""
    path = put("davis/ImageSets/2017/val.txt", data)
    for kind, name in (("JPEGImages", "a.jpg"), ("Annotations", "a.png")):
        if not (WORK / f"davis/{kind}/480p/dog").exists():
            put(f"davis/{kind}/480p/dog/{name}", label_maps()[0])
    put("ade/classes.json", data)
    try_out(
        lambda: read_lines(path),
        lambda: read_json(path),
        lambda: davis.check(WORK / "davis"),
        lambda: find_sequences(WORK / "davis"),
        lambda: ade20k.class_names(WORK / "ade"),
    )


def checkpoint(data: bytes) -> None:
    """The one door."""
    path = put("x.pth", data)
    try_out(lambda: load_backbone(path, heads=2))


def record(data: bytes) -> None:
    """A result's file."""
    path = put("record.json", data)
    try_out(lambda: Record.read(path))


def saved(content: Any) -> bytes:
    """A checkpoint's bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@st.composite
def checkpoints(draw: Callable) -> bytes:
    """A damaged file, or one whose tensors are not what a network has."""
    tensors = network()
    whole = {"state_dict": {f"teacher.backbone.{k}": t for k, t in tensors.items()}, "meta": {"method": "DINO"}}
    if draw(st.booleans()):
        code = [pickle.dumps({"model": RunsCode()}), saved({"x": RunsCode()})]
        return draw(damaged([saved(tensors), saved(whole), *code]))
    for name in draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True)):
        match draw(st.sampled_from(["shape", "type", "nan", "gone", "value", "expanded", "name", "deep"])):
            case "shape":
                tensors[name] = torch.zeros(draw(st.lists(st.integers(0, 9), max_size=5)))
            case "type":
                tensors[name] = tensors[name].to(
                    draw(st.sampled_from([torch.int64, torch.bool, torch.cfloat, torch.half]))
                )
            case "nan":
                tensors[name] = tensors[name] * float("nan")
            case "gone":
                del tensors[name]
            case "value":
                tensors[name] = draw(st.sampled_from([None, "x", 1, [1], {"a": 1}, {}]))
            case "expanded":  # 4 TB, of which 4 bytes are stored
                tensors[name] = torch.zeros(1).expand(1 << 20, 1 << 20)
            case "name":
                tensors[draw(st.text(max_size=6))] = tensors.pop(name)
            case "deep":
                tensors[name] = torch.zeros((1,) * 60)
    return saved({"meta": draw(VALUES), "state_dict": tensors} if draw(st.booleans()) else tensors)


TEXTS = ("title", "dataset", "dataset_fingerprint", "split", "method", "checkpoint", "checkpoint_sha256")
EXAMPLE_RECORD = {
    **dict.fromkeys((*TEXTS, "weights_sha256", "device", "started"), "x"),
    **{"task": "knn", "headline": ["top-1"], "measure": "selfpatch.reports.metrics:CLASSIFICATION", "lower": []},
    **{"protocol": {"name": "x", "parameters": {"k": 20}}, "arch": {"depth": 2}, "config": None, "versions": {}},
    **{"pretrain_epochs": 3, "seed": None, "certificate": [], "seconds": 1.5, "miniature": True},
    **{"metrics": {"top-1": 50.0}, "notes": ["x"]},
}
LISTS = [b"dog\ncat\n", b"\xef\xbb\xbfdog\r\n", b'["sky", "road"]', "dög\n".encode("utf-16")]
JSON = [text_of(annotations())]
KINDS: dict[str, tuple[Callable[[bytes], None], st.SearchStrategy, int]] = {  # reader, files, share of the cases
    "picture": (picture, damaged(pictures()), 7),
    "label map": (label_map, damaged(label_maps()), 3),
    "json": (annotation_file, damaged(JSON) | altered(annotations()), 4),
    "list": (listing, damaged(LISTS) | altered(["sky", "road"]), 2),
    "checkpoint": (checkpoint, checkpoints(), 3),
    "record": (record, damaged([text_of(EXAMPLE_RECORD)]) | altered(EXAMPLE_RECORD), 1),
}


# --- the run ---------------------------------------------------------------------------------------------------------


def too_long(*_: Any) -> None:
    """Called by the alarm; no :class:`Exception`, which a reader would turn into a line."""
    raise KeyboardInterrupt(f"a case took more than {SECONDS} s")


def run(kind: str, cases: int, seed: int) -> None:
    """Try ``cases`` files of a kind."""
    reader, files, _ = KINDS[kind]

    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(files)
    def one(data: bytes) -> None:
        signal.alarm(SECONDS)
        try:
            reader(data)
        finally:
            signal.alarm(0)

    random.seed(seed)
    one._hypothesis_internal_use_seed = seed
    one()


def limit_memory() -> None:
    """From here on this process cannot hold :data:`MEMORY` bytes more than it does."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY,) * 2)


def main() -> None:
    """Try all kinds, say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args()
    signal.signal(signal.SIGALRM, too_long)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C complain there
    limit_memory()
    total = sum(weight for *_, weight in KINDS.values())
    for kind, (*_, weight) in KINDS.items():
        if given_.kind in (None, kind):
            started, before = time.perf_counter(), dict(OUTCOMES)
            cases = given_.cases if given_.kind else max(1, given_.cases * weight // total)
            try:
                run(kind, cases, given_.seed)
            except BaseException:  # a case that took too long, too
                traceback.print_exc(file=sys.stdout)
                sys.exit(1)
            counts = ", ".join(f"{OUTCOMES[name] - before.get(name, 0)} {name}" for name in ("result", "refused"))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            seconds = time.perf_counter() - started
            print(f"{kind}: {cases} files, {counts}, {seconds:.0f} s, peak {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
