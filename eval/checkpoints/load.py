"""The one door for checkpoints: any published or own checkpoint in, a backbone that is proved to hold its weights out.

What a file is, is read off its tensors and metadata (:mod:`selfpatch.eval.checkpoints.families`); every tensor must
be explained; and each load ends with a certificate: which tensors were set, and that the model computes from them what
the file's own tensors say.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfpatch.eval.checkpoints import certificate as proof
from selfpatch.eval.checkpoints.architecture import arch_name, empty_model
from selfpatch.eval.checkpoints.tensors import Backbone, read_backbone, some
from selfpatch.pretrain.checkpoint import load_file
from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.pretrain.files import sha256_file


@dataclass
class LoadedBackbone:
    """A backbone with a checkpoint's weights in it, and where each fact about it comes from."""

    model: nn.Module = field(repr=False)  # eval mode
    state: dict[str, Tensor] = field(repr=False)  # the backbone's tensors under our names, float32
    arch: dict[str, Any]  # the model's arch, and its short name
    method: str  # display name, such as "DINO+SelfPatch"
    method_told: bool  # whether the file says so; else it is a neutral word, such as "ViT"
    family: str  # which layout was recognised
    which: str  # which network of the file
    heads_from: str  # "metadata", "arch table", "--heads", or "its tensors" (Swin)
    checkpoint: Path
    checkpoint_sha256: str
    weights_sha256: str
    certificate: list[str]  # two lines
    epoch: int | None = None
    seed: int | None = None
    config: dict | None = None
    train_data: str | None = None
    unsafe: bool = False  # whether the user let the file run code
    tokens: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)  # the fingerprint, (N, C)

    def report(self, method: str | None = None) -> str:
        """What a command prints of a loaded checkpoint: the certificate, and a hint where nobody named its method.

        Args:
            method: the user's name for it.
        """
        hint = f"note: the file does not tell what trained it, so it is called {self.method}: name it with --method"
        return "\n".join([*self.certificate, *([] if method or self.method_told else [hint])])

    def check(self, model: nn.Module) -> None:
        """Raise unless ``model``, or the one backbone inside it, holds these very weights and computes these features.

        Frameworks initialise weights again after a load: call this in the model that trains, as late as possible.

        Args:
            model: a backbone like :attr:`model`, or a module that contains just one.

        Raises:
            UserError: names the tensors that differ.
        """
        inside = [module for module in model.modules() if isinstance(module, type(self.model))]
        if len(inside) != 1:
            raise UserError(f"certificate of {self.checkpoint}: {len(inside)} backbones in the model instead of one")
        expected = self.state
        found = {name: t.detach().cpu().float() for name, t in inside[0].state_dict().items()}
        wrong = sorted(
            expected.keys() ^ found.keys()
            | {name for name in expected.keys() & found.keys() if not torch.equal(expected[name], found[name])}
        )
        if wrong:
            raise UserError(
                f"certificate of {self.checkpoint}: {some(wrong)}: not what was loaded, in the model that "
                "runs; something initialised its weights again"
            )
        difference = proof.largest_difference(proof.fingerprint(inside[0]), self.tokens)
        if difference > proof.TOLERANCE:
            raise UserError(
                f"certificate of {self.checkpoint}: the model that runs computes other features on the fixed image "
                f"(relative difference {difference:.1e}): does it have {self.arch['heads']} heads?"
            )


def load_backbone(
    path: str | Path, which: str | None = None, heads: int | None = None, unsafe: bool = False
) -> LoadedBackbone:
    """Load the backbone of any checkpoint of a known family.

    Args:
        path: the file.
        which: ``teacher`` or ``student`` (for MoBY also ``key`` or ``online``); None: the family's default.
        heads: the number of attention heads, for sizes that neither metadata nor the table of published sizes knows.
        unsafe: read the file even if that may run code in it (``--unsafe-load``).

    Raises:
        UserError: the file cannot be read safely, is of no known family, or a tensor is missing, unexplained or of the
            wrong shape; the head count is unknown or contradicts the metadata.
    """
    path = Path(path)
    content = load_file(path, unsafe=unsafe)
    found = read_backbone(path, content, which)
    model, heads_from = empty_model(path, found, heads)
    _raise_unless_covered(path, found, model)
    if heads_from is None:
        raise UserError(
            f"{path} ({found.family.name} layout): a ViT {model.embed_dim} wide and {model.depth} deep is no published "
            "size, and the number of attention heads cannot be read off its tensors: add --heads N"
        )
    _raise_unless_as_stated(path, model.arch, found.meta)
    model.load_state_dict({name: tensor.clone() for name, tensor in found.state.items()}, assign=True)
    model.eval()

    tokens = proof.fingerprint(model)
    difference = proof.largest_difference(tokens, proof.written_out_tokens(found.state, model.arch))
    if difference > proof.TOLERANCE:
        raise UserError(
            f"{path}: the loaded model's features differ from those of the file's tensors (relative {difference:.1e}): "
            "the weights are not finite, or this is a bug"
        )
    arch = {**model.arch, "name": arch_name(model.arch)}
    weights = proof.weights_sha256(found.state)
    set_from = f"{found.prefix}*" if found.prefix else "the file's top level"
    parts = [f"{pattern} ({count})" for pattern, count in sorted(found.left_out.items())]
    left_out = f"; left out: {some(parts, 12)}" if parts else ""
    config = found.meta.get("config")
    return LoadedBackbone(
        model=model,
        state=found.state,
        arch=arch,
        method=str(found.meta.get("method", found.family.method)),
        method_told=found.meta.get("method_told", "method" in found.meta or found.family.tells_method),
        family=found.family.name,
        which=found.which,
        heads_from=heads_from,
        checkpoint=path,
        checkpoint_sha256=sha256_file(path),
        weights_sha256=weights,
        certificate=[
            f"coverage: all {len(found.state)} tensors of a {arch['name']} (heads {arch['heads']} by {heads_from}) set "
            f"from {set_from} ({found.family.name} layout), none unexplained{left_out}",
            f"features: the model's tokens on the fixed image equal those written out from the file's tensors "
            f"(relative difference {difference:.0e}); fingerprint {proof.tokens_sha(tokens)}, weights {weights[:12]}",
        ],
        epoch=_epoch(content, found.meta),
        seed=found.meta.get("seed"),
        config=dict(config) if isinstance(config, Mapping) else None,
        train_data=found.meta.get("train_data"),
        unsafe=unsafe,
        tokens=tokens,
    )


def _epoch(content: Any, meta: Mapping[str, Any]) -> int | None:
    epoch = meta.get("epoch", content.get("epoch") if isinstance(content, Mapping) else None)
    return int(epoch) if isinstance(epoch, (int, float)) else None


def _raise_unless_covered(path: Path, found: Backbone, model: nn.Module) -> None:
    """Every tensor of the model in the file, of the model's shape, and nothing else."""
    expected, state, names = model.state_dict(), found.state, found.names
    shapes = {name: (_shape(state[name]), _shape(expected[name])) for name in state.keys() & expected.keys()}
    lacking = [found.prefix + name for name in expected if name not in state]
    if "cls_token" in expected and "cls_token" not in state and "pos_embed" in state:
        lacking[lacking.index(f"{found.prefix}cls_token")] += f" (or {names['pos_embed']} has a row too many)"
    complaints = {
        "lacks": lacking,
        "cannot explain": [names[name] for name in state if name not in expected],
        "has of the wrong shape": [f"{names[n]} ({own}, not {due})" for n, (own, due) in shapes.items() if own != due],
    }
    if any(complaints.values()):
        told = "; ".join(f"{what} {some(sorted(which))}" for what, which in complaints.items() if which)
        raise UserError(f"{path} as a backbone of the {found.family.name} layout {told}")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _raise_unless_as_stated(path: Path, arch: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    stated = meta.get("arch", {})
    wrong = [
        f"{key} {stated[key]} but the tensors {arch[key]}" for key in arch if key in stated and stated[key] != arch[key]
    ]
    if wrong:
        raise UserError(f"{path}: the metadata says {'; '.join(wrong)}")


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that takes a checkpoint."""
    parser.add_argument(
        "--which", metavar="NETWORK", help="teacher or student (MoBY: key or online); default: the family's"
    )
    parser.add_argument(
        "--heads", type=int, metavar="N", help="attention heads, where neither metadata nor the size tells"
    )
    parser.add_argument("--unsafe-load", action="store_true", help="read a file even if that may run code in it")


DESCRIPTION = """\
Write the backbone of any checkpoint in another layout, and prove that it arrived.

  tools/convert.sh dino_deitsmall16_pretrain.pth dino.pth             a checkpoint of this project
  tools/convert.sh checkpoint.pth vit.safetensors --to timm           timm's names
  tools/convert.sh moby_swin_t_300ep_pretrained.pth swin.pth --to mmdet"""


def main(argv: Sequence[str]) -> None:
    """Convert one checkpoint from the command line."""
    from selfpatch.eval.checkpoints.export import TARGETS, check_out, export  # it needs this module

    parser = command_parser(DESCRIPTION)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of any known family")
    parser.add_argument("out", type=Path, help="the file to write; .safetensors chooses that format")
    parser.add_argument("--to", choices=TARGETS, default="selfpatch", help="the layout to write")
    parser.add_argument(
        "--method", metavar="NAME", help="the name in tables, where the file's own is not what you want"
    )
    add_checkpoint_options(parser)
    args = parser.parse_args(argv)
    check_out(args.out, args.checkpoint)
    loaded = load_backbone(args.checkpoint, which=args.which, heads=args.heads, unsafe=args.unsafe_load)
    print(loaded.report(args.method), flush=True)
    if args.method:
        loaded.method, loaded.method_told = args.method, True
    print("\n".join(export(loaded, args.to, args.out)))
    print(f"written: {args.out}")


if __name__ == "__main__":
    run_command(main)
