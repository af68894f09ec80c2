"""From the tensors that a family stores to those of this project's ViT and Swin, which are the same numbers joined.

Some libraries keep queries, keys and values apart, or the two halves of a gated MLP, leave out biases that are zero, or
give [CLS] no row in the table of positions. The joined tensors compute the same; a part that is lacking or of another
shape than its kin is named as the file calls it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from selfpatch.eval.checkpoints.family import Family
from selfpatch.eval.checkpoints.signs import is_square, shape_text
from selfpatch.pretrain.cli import UserError


@dataclass
class Parts:
    """The tensors of one backbone under our names, or under the names of parts that are still to be joined."""

    path: Path  # of the checkpoint, for messages
    family: Family  # whose layout it has
    prefix: str  # of the file's names
    state: dict[str, Tensor]  # name -> tensor
    names: dict[str, str]  # name -> the file's name
    notes: list[str] = field(default_factory=list)  # what was done, for the certificate
    origins: list[str] = field(default_factory=list)  # the file's names of all these tensors, before any were joined
    aliases: dict[str, str] = field(default_factory=dict)  # the end of a name -> what it was before Parts.call

    def file_name(self, name: str) -> str:
        """What the file calls, or would call, one of our tensors."""
        if name in self.names:
            return self.names[name]
        for end, before in self.aliases.items():
            if name.endswith(end):
                name = name.removesuffix(end) + before
                break
        return self.prefix + self.family.original(name)

    def ending(self, end: str) -> Iterator[str]:
        """What precedes ``end`` in the names that have it: the blocks that hold such a tensor."""
        return (name.removesuffix(end) for name in list(self.state) if name.endswith(end))

    def join(self, parts: Sequence[str], whole: str, kinds: Sequence[str] = ("weight", "bias")) -> bool:
        """Put ``parts`` of every block together, one after the other, as ``whole``.

        Returns:
            whether there was anything to join.

        Raises:
            UserError: a part is lacking, or of another shape than the others.
        """
        found = False
        for kind in kinds:
            holders = {part: set(self.ending(f".{part}.{kind}")) for part in parts}
            blocks = sorted(set().union(*holders.values()))
            if not blocks:
                continue
            found, due = True, [part for part in parts if holders[part]]
            names = {block: [f"{block}.{part}.{kind}" for part in due] for block in blocks}
            all_names = [name for own in names.values() for name in own]
            self.raise_if_lacking(self.file_name(name) for name in all_names if name not in self.state)
            for stage in {block.rpartition(".")[0] for block in blocks}:
                self.raise_unless_alike([name for name in all_names if name.startswith(f"{stage}.")])
            for block, (first, *others) in names.items():
                zero = torch.zeros_like(self.state[first])
                pieces = [self.state.get(f"{block}.{part}.{kind}", zero) for part in parts]
                self.rename(first, f"{block}.{whole}.{kind}", torch.cat(pieces))
                for name in others:
                    del self.state[name]
            if zeros := [part for part in parts if part not in due]:
                self.notes.append(f"{', '.join(zeros)}.{kind} zero")
        return found

    def rename(self, name: str, to: str, tensor: Tensor | None = None) -> None:
        """Call a tensor otherwise, and change it where ``tensor`` is given."""
        own = self.state.pop(name)
        self.state[to] = own if tensor is None else tensor
        self.names[to] = self.names[name]

    def call(self, end: str, otherwise: str) -> None:
        """Call the tensors of all blocks whose names end so otherwise."""
        for block in self.ending(end):
            self.rename(block + end, block + otherwise)
            self.aliases[otherwise] = end

    def raise_if_lacking(self, names: Iterable[str]) -> None:
        """Raise UserError for what a file should have and has not, if there is any."""
        if lacking := sorted(names):
            raise UserError(f"{self.path} ({self.family.name} layout) lacks {', '.join(lacking[:5])}")

    def raise_unless_alike(self, names: Sequence[str]) -> None:
        """Raise UserError for a tensor that is of another shape than most of ``names``."""
        due = Counter(shape_text(self.state[name]) for name in names).most_common(1)[0][0]
        shapes = {name: shape_text(self.state[name]) for name in names}
        wrong = [f"{self.names[n]} ({own}, not {due})" for n, own in shapes.items() if own != due or due == "scalar"]
        if wrong:
            raise UserError(f"{self.path} ({self.family.name} layout) has of the wrong shape {', '.join(wrong[:5])}")


def assemble(parts: Parts) -> None:
    """Join what the family keeps apart, so that the names and tensors are our ViT's or Swin's."""
    parts.origins = sorted(parts.names.values())
    if parts.join(("attn.q", "attn.k", "attn.v"), "attn.qkv"):
        parts.notes.append("q, k, v joined in this order")
    _biases(parts)
    _gated_mlp(parts)
    _distillation_token(parts)
    _cls_row(parts)


def _biases(parts: Parts) -> None:
    """timm's two biases of three, DINOv3's masked ones, and none at all: each stands for zeros."""
    parts.call(".attn.q_bias", ".attn.bias_q.bias")
    parts.call(".attn.v_bias", ".attn.bias_v.bias")
    parts.join(("attn.bias_q", "attn.bias_k", "attn.bias_v"), "attn.qkv", kinds=("bias",))
    masked, biased = (set(parts.ending(f".attn.qkv.{kind}")) for kind in ("bias_mask", "bias"))
    if masked:
        parts.raise_if_lacking(parts.names[f"{block}.attn.qkv.bias"] + "_mask" for block in biased - masked)
    for block in masked:
        mask, bias = parts.state[f"{block}.attn.qkv.bias_mask"], parts.state.get(f"{block}.attn.qkv.bias")
        if bias is not None and bias.shape == mask.shape and bool(((mask == 0) | (mask == 1)).all()):
            parts.state[f"{block}.attn.qkv.bias"] = bias * mask
            del parts.state[f"{block}.attn.qkv.bias_mask"]
        elif bias is not None:
            raise UserError(f"{parts.path}: {parts.names[f'{block}.attn.qkv.bias_mask']} is no mask of that bias")
    blocks = list(parts.ending(".attn.qkv.weight"))
    if blocks and not any(parts.ending(".attn.qkv.bias")):
        parts.notes.append("qkv.bias zero")
        for block in blocks:
            weight = parts.state[f"{block}.attn.qkv.weight"]
            parts.state[f"{block}.attn.qkv.bias"] = weight.new_zeros(weight.shape[0] if weight.ndim else 0)
            parts.names[f"{block}.attn.qkv.bias"] = parts.names[f"{block}.attn.qkv.weight"]


def _gated_mlp(parts: Parts) -> None:
    """SwiGLU under DINOv2's names, ``mlp.w12`` and ``mlp.w3``; ``up`` and ``down`` without a gate are a plain MLP."""
    gated = any(parts.ending(".mlp.gate.weight")) or any(parts.ending(".mlp.gate.bias"))
    halves = [
        f"{block}.mlp"
        for block in parts.ending(".mlp.fc1.weight")
        if (second := parts.state.get(f"{block}.mlp.fc2.weight")) is not None
        and second.ndim == 2
        and parts.state[f"{block}.mlp.fc1.weight"].shape[:1] == (2 * second.shape[1],)
    ]
    packed = len(halves) > len(list(parts.ending(".mlp.fc1.weight"))) / 2
    names = {".mlp.up": ".mlp.fc1", ".mlp.down": ".mlp.fc2"}
    if gated:
        names = {".mlp.down": ".mlp.w3", ".mlp.fc2": ".mlp.w3"}
    elif packed:
        names = {".mlp.fc1": ".mlp.w12", ".mlp.fc2": ".mlp.w3"}
    for theirs, ours in names.items():
        for kind in ("weight", "bias"):
            parts.call(f"{theirs}.{kind}", f"{ours}.{kind}")
    if gated:
        parts.join(("mlp.gate", "mlp.up"), "mlp.w12")


def _distillation_token(parts: Parts) -> None:
    """DeiT's second token, with its position, as a register, which has none: the same network."""
    token, table = parts.state.get("dist_token"), parts.state.get("pos_embed")
    if token is None or table is None or token.ndim != 3 or table.ndim != 3 or token.shape[2] != table.shape[2]:
        return
    if "cls_token" not in parts.state:
        parts.raise_if_lacking([parts.file_name("cls_token")])
    if table.shape[1] > 2 and is_square(table.shape[1] - 2):
        parts.rename("dist_token", "register_tokens", token + table[:, 1:2])
        parts.state["pos_embed"] = torch.cat([table[:, :1], table[:, 2:]], dim=1)
        parts.notes.append("the distillation token goes along as a register")


def _cls_row(parts: Parts) -> None:
    """Give [CLS] a row of zeros in the table where timm and DeiT III have none: the same network."""
    table, registers = parts.state.get("pos_embed"), parts.names.get("register_tokens", "").endswith("reg_token")
    if parts.family.name != "vit-timm" or "cls_token" not in parts.state or table is None or table.ndim != 3:
        return
    rows = table.shape[1]
    without = is_square(rows)
    if registers != without and not (without and any(parts.ending(".ls1.gamma"))):
        due = "one for each patch, a square number" if registers else "one for each patch and one for [CLS]"
        because = "there is reg_token" if registers else "there is no reg_token"
        raise UserError(f"{parts.path}: pos_embed has {rows} rows, but since {because}, timm has {due}")
    if without:
        parts.state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
        parts.notes.append("[CLS] without a position")
