"""DAVIS 2017, semi-supervised: the first frame's masks are carried through each video by patch similarity alone.

Protocol ``davis2017-dino@1``, as published with DINO (arXiv 2104.14294, section 4.2.2). Nothing is trained: what is
scored is how well a backbone's patch tokens tell the parts of a scene apart and find them again in later frames.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.datasets.checks import require, unreadable
from selfpatch.eval.datasets.davis import Video, fingerprint_of, is_official, read_tree, write_mask
from selfpatch.eval.datasets.doctor import check_videos
from selfpatch.eval.measures.jf import VOID, read_mask, score_folder
from selfpatch.eval.measures.propagation import LabelPropagation, hard_labels, one_hot
from selfpatch.pretrain.backbone import IMAGENET_MEAN, Backbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import write_text
from selfpatch.pretrain.progress import Meter
from selfpatch.reports.record import Dataset, Evaluation, Protocol, jsonable

DATA = Path("data/DAVIS")  # the default of --data
PROTOCOL = "davis2017-dino@1"


def _option(default: object, help: str) -> object:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """The parameters of the protocol, as published; each is an option, and a departure shows in the protocol's name."""

    context_frames: int = _option(7, "how many of the latest frames are looked back at, beside the first")
    radius: int = _option(12, "half side of the search window, in patches")
    topk: int = _option(5, "how many context patches vote for a patch")
    temperature: float = _option(0.1, "of the votes: softmax(cosine / temperature)")
    short_side: int = _option(480, "pixels of a frame's short side")
    long_multiple: int = _option(64, "the long side is floored to a multiple of this")
    side_multiple: int = _option(1, "then both sides are; where 1 does not suit the patch size, that is taken instead")
    mean: tuple[float, ...] = _option(IMAGENET_MEAN, "R,G,B of a mean pixel, in 0 … 1")
    std: tuple[float, ...] = _option((0.228, 0.224, 0.225), "R,G,B that divide what is left (0.228: as published)")
    block: int = _option(-1, "whose tokens are compared, after the final norm where there is one; -1: the last")
    stage: int = _option(0, "of a Swin, 1 to 4: whose tokens are compared; without it 3, at stride 16; 0: no Swin")
    precision: str = _option("float32", "of the backbone: float32 or bf16")

    def __post_init__(self) -> None:
        for name in ("topk", "temperature", "short_side", "long_multiple", "side_multiple"):
            if not getattr(self, name) > 0:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: must be above 0")
        for name in ("context_frames", "radius"):
            if getattr(self, name) < 0:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: must be 0 or more")
        if not 0 <= self.stage <= 4:
            raise UserError(f"--stage {self.stage}: a Swin has the stages 1 to 4, at strides 4, 8, 16 and 32")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError("--mean and --std take three numbers, such as 0.485,0.456,0.406; --std's are above 0")
        if self.precision not in ("float32", "bf16"):
            raise UserError(f"--precision {self.precision}: choose float32 or bf16")

    def protocol(self) -> Protocol:
        """``davis2017-dino@1``, followed by every parameter that is not the published one, as in ``+topk=7``."""
        changed = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        suffixes = (f"+{name}={_text(getattr(self, name))}" for name in changed)
        parameters = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return Protocol(PROTOCOL + "".join(suffixes), parameters)

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a frame is resized to; of a square, the height counts as the short side."""
        long = int(self.short_side * max(height, width) / min(height, width) // self.long_multiple) * self.long_multiple
        short, long = (side // self.side_multiple * self.side_multiple for side in (self.short_side, long))
        if min(short, long) == 0:
            raise UserError(f"--short-side {self.short_side} leaves nothing of a {width}x{height} frame: raise it")
        return (long, short) if height > width else (short, long)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: object) -> str:
    return ",".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers, such as 0.485,0.456,0.406") from None


# --- one video -----------------------------------------------------------------------------------------------------


def read_frame(path: Path, settings: Settings) -> tuple[np.ndarray, tuple[int, int]]:
    """A frame as the backbone takes it, (3, h, w) float32, and its own (height, width).

    Raises:
        UserError: the file is no image that can be read to its end.
    """
    require(unreadable([path]))  # OpenCV takes a truncated JPEG, and makes what is missing grey
    frame = cv2.imread(str(path))  # (H, W, BGR), uint8
    if frame is None:
        raise UserError(f"{path} is not a readable image")
    size = frame.shape[:2]
    height, width = settings.frame_size(*size)
    frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    pixels = frame[:, :, ::-1].astype(np.float32) / 255
    pixels = (pixels - np.float32(settings.mean)) / np.float32(settings.std)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), size


FIRST = {"block": 0, "stage": 1}  # the number of the first place in the option of that name


def index_of(settings: Settings, model: Backbone) -> int:
    """Where in ``model`` the compared tokens are taken: an index of its places; -1: the last."""
    number = getattr(settings, model.place)
    return model.default_index if number == _unset(model.place) else number - FIRST[model.place]


def _unset(place: str) -> int:
    return next(f.default for f in dataclasses.fields(Settings) if f.name == place)


def patch_tokens(model: Backbone, images: Tensor, settings: Settings) -> Tensor:
    """Tokens (h, w, C), float32, of the patches of one image (1, 3, H, W); [CLS] and registers are left out."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        (tokens,) = model.forward_intermediates(images, [index_of(settings, model)])
    return tokens[0].permute(1, 2, 0).float()


def propagate_video(
    model: Backbone,
    stride: int,
    video: Video,
    folder: Path,
    settings: Settings,
    frame_done: Callable[[], None] = lambda: None,
) -> list[int]:
    """Write the masks of all frames of a video into ``folder``; frames are read ahead and masks written behind.

    Args:
        model: a backbone in eval mode.
        stride: pixels between its patches.
        video: what to follow.
        folder: an existing, empty folder.
        settings: how.
        frame_done: called after each frame.

    Returns:
        the objects that the first mask loses when it shrinks to the patch grid: nothing can find them again.

    Raises:
        UserError: a frame cannot be read or has another size, patches do not tile it, or features are not finite.
    """
    device = next(model.parameters()).device
    given = read_mask(video.masks[0])
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer, torch.inference_mode():
        ahead = [reader.submit(read_frame, path, settings) for path in video.frames[:2]]
        written = [writer.submit(write_mask, folder / video.masks[0].name, given)]
        for t, (path, mask) in enumerate(zip(video.frames, video.masks)):
            pixels, size = ahead.pop(0).result()
            ahead += [reader.submit(read_frame, later, settings) for later in video.frames[t + 2 : t + 3]]
            if size != given.shape:
                raise UserError(f"{path} is {size[1]}x{size[0]}, the first frame {given.shape[1]}x{given.shape[0]}")
            tokens = patch_tokens(model, torch.from_numpy(pixels)[None].to(device), settings)  # (h, w, C)
            if not tokens.isfinite().all():
                raise UserError(f"{path}: the backbone's features of this frame are not finite")
            if t == 0:
                _raise_unless_tiled(pixels.shape[1:], tokens.shape[:2], stride)
                first, lost = shrink(given, tokens.shape[:2])
                follow = LabelPropagation(
                    tokens,
                    one_hot(torch.from_numpy(first).to(device)),
                    context_frames=settings.context_frames,
                    radius=settings.radius,
                    topk=settings.topk,
                    temperature=settings.temperature,
                )
            else:
                labels = hard_labels(follow.step(tokens), pixels.shape[1:]).cpu().numpy()
                written.append(writer.submit(write_mask, folder / mask.name, labels, size))
            frame_done()
        for job in written:
            job.result()
    return lost


def shrink(given: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """A mask (H, W) at the patch grid (h, w), by nearest neighbour, void as background; and the ids that got lost."""
    given = np.where(given == VOID, 0, given).astype(np.uint8)
    small = np.array(Image.fromarray(given).resize(grid[::-1], Image.Resampling.NEAREST))
    return small, np.setdiff1d(given, [0, *small.flat]).tolist()  # background is no object


def _raise_unless_tiled(size: tuple[int, int], grid: tuple[int, int], stride: int) -> None:
    (H, W), (h, w) = size, grid
    if (h * stride, w * stride) != (H, W):
        raise UserError(
            f"{h}x{w} patches of {stride} pixels do not tile a frame resized to {H}x{W}: add --side-multiple {stride}"
        )


# --- all videos ----------------------------------------------------------------------------------------------------


def propagate_all(
    backbone: LoadedBackbone,
    videos: Sequence[Video],
    out: Path,
    settings: Settings,
    anew: bool = False,
    log: Callable[[str], None] = print,
) -> tuple[dict[str, list[int]], float]:
    """Masks of all videos under ``out/masks``, in the official submission's layout.

    A video's folder appears when it is whole. A sidecar, ``out/done/<sequence>.json``, says what it was made from and
    hashes the masks: a video is used again only if weights, arch, protocol, data and masks are all the same, and never
    if all is to be made ``anew``.

    Returns:
        the lost objects of each video, and the seconds that earlier runs spent on those that were finished.
    """
    model = backbone.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    pixels = model.strides[index_of(settings, model)]
    lost, todo, earlier = {}, [], 0.0
    made_by = {
        "weights_sha256": backbone.weights_sha256,
        "arch": jsonable(backbone.arch),  # the same weights compute something else with another number of heads
        "protocol": settings.protocol().as_json(),
    }
    for video in videos:
        source = {**made_by, "fingerprint": video.fingerprint()}
        known = None if anew else _finished(out, video, source)
        if known is None:
            todo.append((video, source))
        else:
            lost[video.name] = known["lost_objects"]
            earlier += known["seconds"]
    if len(todo) < len(videos):
        log(f"{len(videos) - len(todo)} of {len(videos)} videos are finished: going on with the others")
    with Meter("davis", sum(len(video.frames) for video, _ in todo), "frames", say=log) as meter:
        for video, source in todo:
            meter.title = f"davis, {video.name}"
            masks, half = out / "masks" / video.name, out / "masks" / f".{video.name}.tmp"
            sidecar = _sidecar(out, video)
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            began = time.perf_counter()
            try:
                lost[video.name] = propagate_video(model, pixels, video, half, settings, meter.advance)
                sidecar.unlink(missing_ok=True)
                shutil.rmtree(masks, ignore_errors=True)
                os.rename(half, masks)
            finally:
                shutil.rmtree(half, ignore_errors=True)
            made = {**source, "lost_objects": lost[video.name], "masks_sha256": _masks_sha256(masks, video)}
            made["seconds"] = round(time.perf_counter() - began, 3)
            write_text(sidecar, json.dumps(made, indent=1) + "\n")
            if lost[video.name]:
                log(lost_line(video.name, lost[video.name]))
        meter.title = "davis"
    return lost, earlier


def lost_line(name: str, objects: Sequence[int]) -> str:
    """What the log and the record say of objects that cannot be followed."""
    which = ", ".join(map(str, objects))
    return f"{name}: object {which} is lost when the first mask shrinks to the patch grid, and scores as never found"


def _sidecar(out: Path, video: Video) -> Path:
    return out / "done" / f"{video.name}.json"


def _finished(out: Path, video: Video, source: dict) -> dict | None:
    try:
        made = json.loads(_sidecar(out, video).read_text(encoding="utf-8"))
        wanted = {**source, "masks_sha256": _masks_sha256(out / "masks" / video.name, video)}
        whole = made.keys() == {*wanted, "lost_objects", "seconds"}
        return made if whole and {key: made[key] for key in wanted} == wanted else None
    except (OSError, ValueError, AttributeError):
        return None  # never begun, or cut short: made again


def _masks_sha256(folder: Path, video: Video) -> str:
    digest = hashlib.sha256()
    for mask in video.masks:
        digest.update((folder / mask.name).read_bytes())
    return digest.hexdigest()


# --- the task, as selfpatch.eval.run finds it ----------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: which sequences, and one for every parameter of the protocol."""
    parser.add_argument("--sequences", metavar="A,B", help="only these of ImageSets/2017/val.txt")
    parser.add_argument(
        "--resolution", default="480p", help="folder under JPEGImages and Annotations, or Full-Resolution"
    )
    for f in dataclasses.fields(Settings):
        kind = _numbers if isinstance(f.default, tuple) else type(f.default)
        shown = f"{f.metadata['help']} [{_text(f.default)}]".replace("%", "%%")
        parser.add_argument(_flag(f.name), type=kind, default=argparse.SUPPRESS, metavar="X", help=shown)


def _settings(args: argparse.Namespace, backbone: LoadedBackbone | None = None) -> Settings:
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Settings) if hasattr(args, f.name)}
    settings = Settings(**given)
    if backbone is None:
        return settings
    model, name, own = backbone.model, backbone.arch["name"], backbone.model.place
    other = "block" if own == "stage" else "stage"
    if getattr(settings, other) != _unset(other):
        raise UserError(f"--{other} {getattr(settings, other)}: {name} has {own}s: use --{own}")
    index, places = index_of(settings, model), len(model.widths)
    if not -1 <= index < places:
        raise UserError(f"--{own} {index}: {name} has 0 … {places - 1}, and -1 for the last")
    settings = dataclasses.replace(settings, **{own: index + FIRST[own]})
    if "side_multiple" not in given:
        side = model.strides[index]
        if settings.short_side % side or settings.long_multiple % side:
            settings = dataclasses.replace(settings, side_multiple=side)
    return settings


def _videos(args: argparse.Namespace) -> list[Video]:
    return read_tree(Path(args.data), args.resolution, [name for name in (args.sequences or "").split(",") if name])


def check(args: argparse.Namespace) -> None:
    """Raise UserError on options out of range and on a DAVIS tree that is not whole: every file is opened."""
    _settings(args)
    require(check_videos(_videos(args), thorough=True))  # all of DAVIS val: about 3 s on 2 cores


def protocol_of(args: argparse.Namespace, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    return _settings(args, backbone).protocol()


def fingerprint(args: argparse.Namespace) -> Dataset:
    """The data set; ``davis2017-val`` if it is the official one, else the folder's name."""
    videos = _videos(args)
    official = is_official(videos)
    split = "val" + (f"[{','.join(v.name for v in videos)}]" if args.sequences else "")
    split += "" if args.resolution == "480p" else f" {args.resolution}"
    name = "davis2017-val" if official else f"{Path(args.data).resolve().name}-val"
    return Dataset(name, split, fingerprint_of(videos), miniature=not official)


def evaluate(backbone: LoadedBackbone, args: argparse.Namespace, out: Path) -> Evaluation:
    """Write ``out/masks``, score them: means, recall and decay in per cent, and J and F of every object and frame."""
    videos, settings = _videos(args), _settings(args, backbone)
    lost, earlier = propagate_all(backbone, videos, out, settings, anew=args.force)
    scores = score_folder(
        Path(args.data) / "Annotations" / args.resolution,
        out / "masks",
        [video.name for video in videos],
        workers=os.cpu_count() or 1,
    )
    write_text(out / "scores.json", json.dumps(scores.to_json(), indent=1) + "\n")
    write_text(out / "scores.csv", scores.to_csv())
    notes = [lost_line(name, objects) for name, objects in lost.items() if objects]
    return Evaluation(scores.metrics(), scores.units(), notes, earlier)
