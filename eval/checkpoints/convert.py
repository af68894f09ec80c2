"""The command that writes any checkpoint's backbone in another layout."""

from collections.abc import Sequence
from pathlib import Path

from selfpatch.eval.checkpoints.export import TARGETS, check_out, export
from selfpatch.eval.checkpoints.load import add_checkpoint_options, checkpoint_options, load_backbone
from selfpatch.pretrain.cli import command_parser, run_command

DESCRIPTION = """\
Write the backbone of any checkpoint in another layout, and prove that it arrived.

  tools/convert.sh dino_deitsmall16_pretrain.pth dino.pth             a checkpoint of this project
  tools/convert.sh checkpoint.pth vit.safetensors --to timm           timm's names
  tools/convert.sh moby_swin_t_300ep_pretrained.pth swin.pth --to mmdet
  tools/convert.sh checkpoint.pth folder --to hf                      Hugging Face: AutoModel.from_pretrained"""


def main(argv: Sequence[str]) -> None:
    """Convert one checkpoint from the command line."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("checkpoint", type=Path, help="a checkpoint of any known family")
    add("out", type=Path, help="the file to write (.safetensors chooses that format); hf: a folder")
    add("--to", choices=TARGETS, default="selfpatch", help="the layout to write")
    add("--method", metavar="NAME", help="the name in tables, where the file's own is not what you want")
    add(
        "--records", type=Path, default=Path("work_dirs/records"), help="hf: what the model card tells of these weights"
    )
    add_checkpoint_options(parser)
    args = parser.parse_args(argv)
    check_out(args.out, args.checkpoint, args.to)
    loaded = load_backbone(args.checkpoint, **checkpoint_options(args))
    print(loaded.report(args.method), flush=True)
    if args.method:
        loaded.method, loaded.method_told = args.method, True
    print("\n".join(export(loaded, args.to, args.out, args.records)))
    print(f"written: {args.out}")


if __name__ == "__main__":
    run_command(main)
