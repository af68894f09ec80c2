"""What an entry of the table of checkpoint families says, and the translation of names that it holds as data."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache

# Head counts cannot be read off tensors: (width, depth) -> heads, for the sizes that were published.
HEADS = {
    (192, 12): 3,
    (384, 12): 6,
    (768, 12): 12,
    (1024, 24): 16,
    (1152, 27): 16,
    (1280, 32): 16,
    (1408, 40): 16,
    (1536, 40): 24,
    (4096, 40): 32,
}

NEUTRAL = ("ViT", "Swin")  # methods' names that claim none
PLAIN = {"layer_scale": False, "registers": False}  # what families fix of the ViT's options
WITH_CLS = {**PLAIN, "cls_token": True, "final_norm": True}
WITHOUT_CLS = {**PLAIN, "cls_token": False, "final_norm": False}
DINOV2 = {"cls_token": True, "final_norm": True}

# Marks that the reader adds to the names in a file:
LAYER_SCALE = "(LayerScale)"  # most blocks have it
ONLY_MODEL = "(only model)"  # the file holds one entry, "model"
MAE_TABLE = "(MAE's positions)"  # a fixed table of sines and cosines, across first
MAE_TABLE_WITHOUT_CLS = "(MAE's positions without [CLS])"  # I-JEPA's
MOCO_V3_TABLE = "(MoCo v3's positions)"  # the same, down first


@dataclass(frozen=True)
class Family:
    """One family's layout."""

    name: str  # what a record calls the layout
    # the display name of what was pretrained, where no metadata says it; of NEUTRAL where the layout does not tell
    method: str
    # patterns that must each match a tensor's name, a top-level entry or meta.<key>; a|b asks for either
    signs: tuple[str, ...]
    absent: tuple[str, ...] = ()  # patterns that must match none
    # whether most signs of [CLS] (signs.has_cls) must (True) or must not be there
    cls: bool | None = None
    # network -> prefix of its backbone; downstream tasks take the first by default
    networks: Mapping[str, str] = field(default_factory=lambda: {"backbone": ""})
    left_out: tuple[str, ...] = ()  # names beside the networks that belong to no backbone
    backbone_left_out: tuple[str, ...] = ()  # names within a backbone that ours has no use for
    # pairs of templates, the family's name of a backbone tensor and ours (translate)
    names: tuple[tuple[str, str], ...] = ()
    mmdet: bool = False  # whether merges of patches are in mmdet's order, under mmdet's names
    # what every member has of the ViT's options; the rest is read off the tensors
    fixed: Mapping[str, bool] = field(default_factory=dict)
    heads: Mapping[tuple[int, int], int] = field(default_factory=lambda: HEADS)  # (width, depth) -> heads
    # whether its authors give segmentation heads each block's tokens after the final norm: DINOv2 (create_segmenter in
    # its notebooks/semantic_segmentation.ipynb; not depth heads, hub/depthers.py), DINOv3 (eval/utils.py)
    tap_norm: bool = False
    eps: float = 1e-6  # of the LayerNorms, where no configuration says it
    # how its own code resizes the table of position embeddings: "dino", "bicubic" or "antialiased"
    positions: str = "dino"
    computes_periods: bool = False  # whether it computes the periods of rotary positions and stores none

    @property
    def tells_method(self) -> bool:
        """Whether a file of this layout is of this method for certain."""
        return self.method not in NEUTRAL

    def fits(self, marks: Collection[str], cls: bool) -> bool:
        """Whether a file with these names and entries, and with [CLS] or without it, is of this family."""
        if self.cls is not None and self.cls != cls:
            return False
        return all(_found(marks, sign) for sign in self.signs) and not any(_found(marks, no) for no in self.absent)

    def renamed(self, name: str) -> str:
        """Our name of a backbone tensor."""
        return translate(name, self.names)

    def original(self, name: str) -> str:
        """The family's name of one of our tensors: the inverse of :meth:`renamed`."""
        return translate(name, tuple((ours, theirs) for theirs, ours in self.names))


def _found(marks: Collection[str], sign: str) -> bool:
    return any(pattern in marks or any(fnmatchcase(mark, pattern) for mark in marks) for pattern in sign.split("|"))


def both(*parts: str) -> tuple[str, ...]:
    """``parts`` of the student and of the teacher."""
    return tuple(f"{network}.{part}" for network in ("student", "teacher") for part in parts)


def translate(name: str, names: tuple[tuple[str, str], ...]) -> str:
    """``name`` by the first pair of templates that fits it, or as it is.

    In a template ``{i}`` and ``{j}`` stand for a number, ``{p}`` for ``weight`` or ``bias``, ``{x}`` for anything.
    """
    for template, other in names:
        if found := _pattern(template).fullmatch(name):
            return other.format(**({"j": 0} | found.groupdict()))
    return name


def fits_template(name: str, template: str) -> bool:
    """Whether ``name`` is one of those that a template of :func:`translate` stands for."""
    return _pattern(template).fullmatch(name) is not None


@lru_cache
def _pattern(template: str) -> re.Pattern:
    pattern = re.escape(template)
    for hole, what in {"i": r"\d+", "j": r"\d+", "p": "weight|bias", "x": ".+"}.items():
        pattern = pattern.replace(rf"\{{{hole}\}}", f"(?P<{hole}>{what})")
    return re.compile(pattern)
