"""DAVIS 2017, semi-supervised: the first frame's masks are carried through each video by patch similarity alone.

Protocol ``davis2017-dino@1``, as published with DINO (arXiv 2104.14294, section 4.2.2). Nothing is trained: what is
scored is how well a backbone's patch tokens tell the parts of a scene apart and find them again in later frames.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.pixels import IMAGENET
from selfpatch.eval.datasets.davis import ABSENT, Video, Videos, open_videos, write_mask
from selfpatch.eval.datasets.frames import FramePreparation, encoded_frames
from selfpatch.eval.measures.jf import VOID, score_folder
from selfpatch.eval.measures.propagation import LabelPropagation, hard_labels, one_hot
from selfpatch.eval.tasks import TaskSettings
from selfpatch.pretrain import settings as declared
from selfpatch.pretrain.backbone import IMAGENET_MEAN, Backbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import write_text
from selfpatch.pretrain.images import read_labels
from selfpatch.pretrain.progress import Meter
from selfpatch.pretrain.settings import as_json, changed
from selfpatch.reports.metrics import VIDEO
from selfpatch.reports.record import Evaluation, Protocol, jsonable

TITLE = "DAVIS video object segmentation"
HEADLINE = ["J&F"]
MEASURE = VIDEO
PROTOCOL = "davis2017-dino@1"
FIRST = {"block": 0, "stage": 1}  # the number of the first place in the option of that name
Positive = Annotated[float, Field(gt=0)]


class Propagation(declared.Settings):
    """The parameters of the protocol, as published; a departure shows in the protocol's name."""

    context_frames: int = Field(7, ge=0, description="how many of the latest frames are looked back at, and the first")
    radius: int = Field(12, ge=0, description="half side of the search window, in patches")
    topk: int = Field(5, ge=1, description="how many context patches vote for a patch")
    temperature: float = Field(0.1, gt=0, description="of the votes: softmax(cosine / temperature)")
    short_side: int = Field(480, ge=1, description="pixels of a frame's short side")
    long_multiple: int = Field(64, ge=1, description="the long side is floored to a multiple of this")
    side_multiple: int = Field(
        1, ge=1, description="then both sides are; where 1 does not suit the patch size, that is taken instead"
    )
    mean: tuple[float, float, float] = Field(IMAGENET_MEAN, description="R,G,B of a mean pixel, in 0 … 1")
    std: tuple[Positive, Positive, Positive] = Field(
        (0.228, 0.224, 0.225), description="R,G,B that divide what is left (0.228: as published)"
    )
    block: int = Field(
        -1,
        ge=-1,
        description="ViT: the block whose tokens are compared, after the final norm where there is one; -1: the last",
    )
    stage: int = Field(
        0, ge=0, le=4, description="Swin: the stage (1-4) whose tokens are compared; 0: the third, at stride 16"
    )
    precision: Literal["float32", "bf16"] = Field("float32", description="of the backbone")

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a frame is resized to; of a square, the height counts as the short side."""
        long = int(self.short_side * max(height, width) / min(height, width) // self.long_multiple) * self.long_multiple
        short, long = (side // self.side_multiple * self.side_multiple for side in (self.short_side, long))
        if min(short, long) == 0:
            raise UserError(f"--short-side {self.short_side} leaves nothing of a {width}x{height} frame: raise it")
        return (long, short) if height > width else (short, long)


class Settings(Propagation, TaskSettings):
    """The options of the task."""

    data: Path = Field(Path("data/DAVIS"), description="where the data set lies")
    sequences: tuple[str, ...] = Field((), description="only these of ImageSets/2017/val.txt")
    resolution: str = Field("480p", description="folder under JPEGImages and Annotations, or Full-Resolution")
    absent_objects: bool = Field(False, description="score objects that the first mask skips, too: J = F = 1")

    def on(self, backbone: LoadedBackbone) -> "Settings":
        """These settings with what depends on the backbone: its place, its pixels, a multiple that suits the patches.

        Raises:
            UserError: the backbone has no such block or stage.
        """
        model, name, own = backbone.model, backbone.arch["name"], backbone.model.place
        other = "block" if own == "stage" else "stage"
        if getattr(self, other) != Propagation.model_fields[other].default:
            raise UserError(f"--{other} {getattr(self, other)}: {name} has {own}s: use --{own}")
        index, places = index_of(self, model), len(model.widths)
        if index >= places:
            raise UserError(f"--{own} {index + FIRST[own]}: {name} has 0 … {places - 1}, and -1 for the last")
        found = {own: index + FIRST[own]}
        own_pixels = {key: getattr(model, key) for key, usual in IMAGENET if getattr(model, key) != usual}
        found |= {key: values for key, values in own_pixels.items() if key not in self.model_fields_set}
        side = model.strides[index]
        if "side_multiple" not in self.model_fields_set and (self.short_side % side or self.long_multiple % side):
            found["side_multiple"] = side
        return self.model_copy(update=found)


# --- one video -----------------------------------------------------------------------------------------------------


def index_of(settings: Propagation, model: Backbone) -> int:
    """Where in ``model`` the compared tokens are taken: an index of its places; -1: the last."""
    number = getattr(settings, model.place)
    unset = Propagation.model_fields[model.place].default
    return model.default_index if number == unset else number - FIRST[model.place]


def patch_tokens(model: Backbone, images: Tensor, settings: Propagation) -> Tensor:
    """Tokens (B, h, w, C), float32, of the patches of images (B, 3, H, W); [CLS] and registers are left out."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        (tokens,) = model.forward_intermediates(images, [index_of(settings, model)])
    return tokens.permute(0, 2, 3, 1).float()


def propagate_video(
    model: Backbone,
    stride: int,
    video: Video,
    folder: Path,
    settings: Propagation,
    frame_done: Callable[[], None] = lambda: None,
) -> list[int]:
    """Write the masks of all frames of a video into ``folder``: the next frame is encoded, and the last mask written,
    while labels are propagated; on a GPU only the thread that writes waits for results.

    Returns:
        the objects that the first mask loses when it shrinks to the patch grid: nothing can find them again.

    Raises:
        UserError: as :func:`encoded_frames`; or features are not finite.
    """
    given, device = read_labels(video.masks[0]), next(model.parameters()).device
    size = settings.frame_size(*given.shape)
    encode = partial(patch_tokens, model, settings=settings)
    preparation = FramePreparation(given.shape, size, settings.mean, settings.std)

    def write(frame: Path, mask: Path, finite: Tensor, labels: Tensor | None) -> None:
        if not finite:
            raise UserError(f"{frame}: the backbone's features of this frame are not finite")
        if labels is None:
            write_mask(folder / mask.name, given)
        else:
            write_mask(folder / mask.name, labels.cpu().numpy(), given.shape)

    follow, written = None, []
    with (
        closing(encoded_frames(video.frames, preparation, encode, device, stride)) as encoded,
        ThreadPoolExecutor(1) as writer,
        torch.inference_mode(),
    ):
        for frame, mask, tokens in zip(video.frames, video.masks, encoded):
            labels = None
            if follow is None:
                first, lost = shrink(given, tokens.shape[:2])
                options = settings.model_dump(include={"context_frames", "radius", "topk", "temperature"})
                follow = LabelPropagation(tokens, one_hot(torch.from_numpy(first)).to(device), **options)
            else:
                labels = hard_labels(follow.step(tokens), size)
            written.append(writer.submit(write, frame, mask, tokens.isfinite().all(), labels))
            frame_done()
        for job in written:
            job.result()
    return lost


def shrink(given: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """A mask (H, W) at the patch grid (h, w), by nearest neighbour, void as background; and the ids that got lost."""
    given = np.where(given == VOID, 0, given).astype(np.uint8)
    small = np.array(Image.fromarray(given).resize(grid[::-1], Image.Resampling.NEAREST))
    return small, np.setdiff1d(given, [0, *small.flat]).tolist()  # background is no object


# --- all videos ----------------------------------------------------------------------------------------------------


def propagate_all(
    backbone: LoadedBackbone, videos: Sequence[Video], out: Path, settings: Propagation, anew: bool = False
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
        "protocol": _protocol(settings).as_json(),
    }
    for video in videos:
        source = {**made_by, "fingerprint": video.sha256}
        known = None if anew else _finished(out, video, source)
        if known is None:
            todo.append((video, source))
        else:
            lost[video.name] = known["lost_objects"]
            earlier += known["seconds"]
    if len(todo) < len(videos):
        print(f"{len(videos) - len(todo)} of {len(videos)} videos are finished: going on with the others")
    with Meter("davis", sum(len(video.frames) for video, _ in todo), "frames") as meter:
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
                print(lost_line(video.name, lost[video.name]), flush=True)
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


# --- the task --------------------------------------------------------------------------------------------------------


def open(settings: Settings) -> Videos:
    """The sequences of a DAVIS tree: every file is read once, and checked."""
    allowed = {ABSENT} if settings.absent_objects else ()
    return open_videos(settings.data, settings.resolution, settings.sequences, allowed)


def protocol(settings: Settings, backbone: LoadedBackbone) -> Protocol:
    """``davis2017-dino@1``, followed by every parameter that is not the published one, as in ``+topk=7``."""
    published = _protocol(settings.on(backbone))
    return dataclasses.replace(published, name=published.name + "+absent_objects" * settings.absent_objects)


def _protocol(settings: Propagation) -> Protocol:
    return Protocol(PROTOCOL + changed(settings, Propagation), as_json(settings, Propagation))


def evaluate(backbone: LoadedBackbone, dataset: Videos, settings: Settings, out: Path) -> Evaluation:
    """Write ``out/masks``, score them: means, recall and decay in per cent, and J and F of every object and frame.

    The published protocol resizes position embeddings as DINO's code does: so it is done here, whatever library a
    checkpoint comes from, and the same weights have the same figure in every format.
    """
    model, own = backbone.model, backbone.model.positions
    model.positions = own and "dino"
    try:
        lost, earlier = propagate_all(backbone, dataset.videos, out, settings.on(backbone), anew=settings.force)
    finally:
        model.positions = own
    truth = settings.data / "Annotations" / settings.resolution
    scores = score_folder(truth, out / "masks", [video.name for video in dataset.videos], workers=os.cpu_count() or 1)
    write_text(out / "scores.json", json.dumps(scores.to_json(), indent=1) + "\n")
    write_text(out / "scores.csv", scores.to_csv())
    notes = [lost_line(name, objects) for name, objects in lost.items() if objects]
    if own not in (None, "dino"):
        notes.append(f"position embeddings were resized as in DINO's code, as the protocol does, and not {own}")
    units = scores.units()
    kept = {"images": dataset.root / "JPEGImages" / settings.resolution, "truth": truth, "masks": out / "masks"}
    kept = {name: str(folder.resolve()) for name, folder in kept.items()}
    return Evaluation(VIDEO.evaluate(units), units, notes, earlier, kept)
