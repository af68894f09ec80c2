"""Attention of query patches drawn over images, checkpoints side by side, and its measures as records."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selfpatch.eval import run
from selfpatch.eval.checkpoints.load import LoadedBackbone, add_checkpoint_options, checkpoint_options, load_backbone
from selfpatch.eval.tasks import attention
from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.pretrain.files import raise_unless_writable
from selfpatch.pretrain.images import read_picture
from selfpatch.pretrain.settings import check
from selfpatch.reports.attention import attention_figure, enlarged, principal_colours, rows_figure
from selfpatch.reports.bootstrap import compare_records
from selfpatch.reports.plots import save
from selfpatch.reports.record import Record

DESCRIPTION = """Draw what query patches look at, as figure 1 of SelfPatch does, and say it in figures.

Pictures of each image: the attention of a block for some query patches, checkpoints side by side (heads averaged, and
head by head), and the patch tokens' three principal components as RGB. A record of each checkpoint: how similar the
maps of an image's query patches are (100 = all look at the same), what stays on the own object where there are masks,
and by block and head these, distance and entropy.

  tools/attention.sh dino.pth selfpatch.pth --images photos
  tools/attention.sh DINO=a.pth SelfPatch=b.pth --images data/DAVIS --pictures 4
  tools/attention.sh a.pth --images dog.jpg --query 120,80 --query 300,200"""
SHOWN = 4  # query patches of a picture: a row each


def main(argv: Sequence[str]) -> None:
    """Score every checkpoint, compare each with the first, and draw."""
    args = parse(argv)
    options = {key: value for key, value in vars(args).items() if key in attention.Look.model_fields}
    settings = check(attention.Settings, {"data": args.images, "force": args.force, **options}, what="option")
    dataset = attention.open(settings)
    raise_unless_writable(args.out, "--out")
    given = {name: load_backbone(path, **checkpoint_options(args)) for name, path in args.checkpoints.items()}
    backbones = {name or f"{one.method} {one.arch['name']}": one for name, one in given.items()}
    records = [score(name, one, settings, args) for name, one in backbones.items()]
    for name, record in zip(list(backbones)[1:], records[1:]):
        for metric in records[0].overall.keys() & record.overall.keys():
            print(f"{name} against {next(iter(backbones))}: {difference(record, records[0], metric)}")
    drawn = replace(dataset, items=tuple(attention.evenly(dataset.items, args.pictures)))
    draw(backbones, drawn, settings, args.query, args.out)
    print(f"pictures: {args.out}/<image>-attention.png, -heads-<checkpoint>.png, and pca.png")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises UserError for what cannot be read."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="CKPT", help="a checkpoint, or NAME=CKPT; the first is compared with")
    add("--images", type=Path, required=True, help="a DAVIS or ADE20K tree, a folder of images, or one image")
    add("--query", action="append", default=[], metavar="X,Y", help="a query patch, in pixels of the image; repeatable")
    add("--pictures", type=int, default=6, help="images that are drawn, evenly chosen")
    add("--out", type=Path, default=Path("work_dirs/attention"), help="folder of the pictures")
    add("--records", type=Path, default=run.RECORDS, help="where records are written")
    add("--force", action="store_true", help="evaluate even if the result is recorded")
    for name, field in attention.Look.model_fields.items():
        add(f"--{name.replace('_', '-')}", type=int, default=field.default, help=field.description)
    add_checkpoint_options(parser)
    args = parser.parse_args(argv)
    if wrong := [text for text in args.query if not re.fullmatch(r"\d+,\d+", text)]:
        raise UserError(f"--query {wrong[0]}: write two whole numbers, as in --query 120,80")
    args.query = [tuple(map(int, text.split(","))) for text in args.query]
    if args.pictures < 1:
        raise UserError(f"--pictures {args.pictures}: must be 1 or more")
    named = [text.rpartition("=") for text in args.checkpoints]
    args.checkpoints = {(name or Path(path).parent.name or path): Path(path) for name, _, path in named}
    if len(args.checkpoints) < len(named):
        raise UserError("two checkpoints have one name: give NAME=CKPT for each")
    return args


def score(name: str, backbone: LoadedBackbone, settings: attention.Settings, args: argparse.Namespace) -> Record:
    """The record of one checkpoint, found or made."""
    print(f"\n== {name}", flush=True)
    places = {"records": args.records, "out": args.out}
    return run.run(attention, settings, backbone.checkpoint, **places, method=name, **checkpoint_options(args))


def difference(record: Record, reference: Record, metric: str) -> str:
    """One line of a paired bootstrap over the images."""
    try:
        found = compare_records([record], [reference], metric)
    except UserError as error:
        return f"{metric}: {error}"
    return f"{metric} {found.delta:+.1f} [{found.low:+.1f}, {found.high:+.1f}] over {found.units} {found.unit}s"


# --- pictures --------------------------------------------------------------------------------------------------------


def draw(
    backbones: dict[str, LoadedBackbone],
    dataset: attention.Items,
    settings: attention.Settings,
    points: Sequence[tuple[int, int]],
    out: Path,
) -> None:
    """Write the pictures of all images."""
    tokens: dict[str, list[np.ndarray]] = {name: [] for name in backbones}
    images = []
    for item in dataset.items:
        pixels = {name: attention.read_item(item, settings, backbone) for name, backbone in backbones.items()}
        (first, labels), *_ = pixels.values()  # the first checkpoint's patches choose the points for all
        chosen = points_of(item, points, labels, next(iter(backbones.values())).model.stride, first.shape[:2])
        maps = {}
        for name, backbone in backbones.items():
            maps[name], patches = look(backbone, pixels[name][0], chosen, settings.block)
            tokens[name].append(patches)
        places = [(x * first.shape[1], y * first.shape[0]) for x, y in chosen]
        block = "the last block" if settings.block == -1 else f"block {settings.block}"
        where = out / file_name(item.name)
        averaged = {name: heads.mean(axis=0) for name, heads in maps.items()}
        title = f"{item.name}: what a patch looks at in {block}, heads averaged"
        save(attention_figure(title, first, places, averaged), f"{where}-attention.png")
        for name, heads in maps.items():
            columns = {f"head {number}": head for number, head in enumerate(heads, start=1)}
            title = f"{item.name}: {name}, {block}, head by head"
            save(attention_figure(title, first, places, columns), f"{where}-heads-{file_name(name)}.png")
        images.append((item.name, first))
    colours = [principal_colours(own) for own in tokens.values()]
    rows = [
        (name, [image, *(enlarged(own[i], image.shape[:2]) for own in colours)])
        for i, (name, image) in enumerate(images)
    ]
    save(rows_figure("Three principal components of patch tokens as RGB", rows, ["image", *backbones]), out / "pca.png")


@torch.inference_mode()
def look(
    backbone: LoadedBackbone, pixels: np.ndarray, points: Sequence[tuple[float, float]], block: int
) -> tuple[np.ndarray, np.ndarray]:
    """What points of an image look at in a block, (heads, Q, h, w), and its patch tokens (h, w, C); both float32."""
    images = attention.normalised(pixels, backbone)
    _, patches, (h, w) = backbone.model(images)
    queries = torch.tensor([int(y * h) * w + int(x * w) for x, y in points], device=images.device)
    (rows,), _ = backbone.model.attention(images, [block], queries)
    return rows[0].unflatten(2, (h, w)).cpu().numpy(), patches[0].unflatten(0, (h, w)).float().cpu().numpy()


def points_of(
    item: attention.Item,
    points: Sequence[tuple[int, int]],
    labels: np.ndarray | None,
    stride: int,
    size: tuple[int, int],
) -> list[tuple[float, float]]:
    """The query points of an image as shares (x, y) of its sides: those given, else two on and two off objects.

    Raises:
        UserError: a point lies outside the image.
    """
    if points:
        height, width = read_picture(item.image).shape[:2]
        if outside := [f"{x},{y}" for x, y in points if x >= width or y >= height]:
            raise UserError(f"--query {outside[0]} lies outside {item.image}, which is {width}x{height}")
        return [((x + 0.5) / width, (y + 0.5) / height) for x, y in points]
    h, w = (side // stride for side in size)
    return [((n % w + 0.5) / w, (n // w + 0.5) / h) for n in attention.choose_queries(labels, (h, w), SHOWN // 2)]


def file_name(text: str) -> str:
    """``text`` as part of a file's name: letters, digits, dots and dashes, at most 80 characters."""
    return re.sub(r"[^\w.-]+", "_", text)[:80] or "_"


if __name__ == "__main__":
    run_command(main)
