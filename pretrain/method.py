"""What training asks of a self-supervised method, and what every method shares: crops in, a loss out."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from selfpatch.pretrain.backbone import IMAGENET_MEAN, IMAGENET_STD, sent_to
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.losses import mean_over_processes
from selfpatch.pretrain.renamed import renamed
from selfpatch.pretrain.schedules import Schedule, Step


@MODELS.register_module()
class CropNormalizer(BaseDataPreprocessor):
    """Moves uint8 crops to the device and normalises them there: a quarter of the bytes cross from the workers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """``data["crops"]``: one uint8 tensor (V, B, 3, S, S) a group of crops -> the same in normalised float32."""
        crops = [crop.to(self.device, non_blocking=True) for crop in data["crops"]]
        return {"crops": [(crop.float() / 255 - self.mean) / self.std for crop in crops]}


class Method(BaseModel):
    """The base of every method.

    A subclass :meth:`add`\ s the networks of ``student`` and ``teacher`` (for MoBY: the online and the key networks), a
    ``backbone`` among them, and computes ``loss(crops)``. Its arguments, with their types and ranges, are the config's
    ``model``. What changes from step to step is set by :meth:`set_step` before the step.
    """

    display_name = "method"  # the name of a row in the reports
    downstream = "teacher"  # the network that downstream tasks take by default, or "student"
    smallest_batch = 1  # images over all processes
    schedule_class: type[Schedule]
    neighbourhood: int | str = 1  # the side in patches of a window that must fit into every crop's grid; "all": none

    def __init__(self) -> None:
        super().__init__(data_preprocessor={"type": "CropNormalizer"})
        self.student, self.teacher = nn.ModuleDict(), nn.ModuleDict()
        self.seed, self.iteration = 0, 0
        self.step = Step(lr=0.0, weight_decay=0.0, momentum=1.0, teacher_temp=1.0)

    def add(self, **parts: nn.Module) -> None:
        """Add networks to the student, and to the teacher copies that no gradient trains and that drop no paths."""
        for name, part in parts.items():
            self.student[name], self.teacher[name] = part, deepcopy(part).requires_grad_(False)
        self.teacher["backbone"].set_drop_path(0.0)

    def init_weights(self) -> None:
        """Nothing: weights are drawn at construction, and mmengine calls this after that."""

    def forward(self, crops: list[Tensor], mode: str = "loss") -> dict[str, Tensor]:
        """mmengine's entry point: normalised crops (V, B, 3, S, S), one a group -> ``loss`` and its parts."""
        return self.loss(crops)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        for old, new in zip(list(state_dict), map(renamed, list(state_dict))):
            if old != new:  # a buffer of a checkpoint from before
                state_dict[new] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def set_step(self, seed: int, iteration: int, step: Step) -> None:
        """Say which step comes: its address for random numbers, and its schedule values."""
        self.seed, self.iteration, self.step = seed, iteration, step

    def after_step(self) -> None:
        """Called after the optimiser's step."""

    @torch.no_grad()
    def diagnose(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What tells of a collapse: the teacher's patch tokens (B, N, C) of normalised images (B, 3, S, S), and of each
        level that has them its targets, probabilities (rows, K).
        """
        return self.teacher["backbone"](images)[1], {}

    def frozen_at_first(self) -> list[nn.Parameter]:
        """Parameters whose gradients are removed while the step says ``last_layers_frozen``."""
        return []

    def check_crops(self, sizes: Sequence[int], local: Sequence[int] = ()) -> None:
        """Raise :class:`UserError` if the crops cannot be used.

        Args:
            sizes: the side in pixels of each crop that is not local.
            local: of each local one.
        """
        network, window = self.student["backbone"], self.neighbourhood
        patch = network.patch_size
        for size in (*sizes, *local):
            if size < patch:
                raise UserError(f"a crop of {size} pixels is smaller than a patch of {patch}: enlarge it in views")
            side = network.tokens_along(size)
            if window != "all" and side < window:  # it would meet itself
                raise UserError(
                    f"a crop of {size} pixels has a grid of {side}x{side} patches, smaller than "
                    f"model.neighbourhood={window}: enlarge the crop or lower the neighbourhood"
                )

    @property
    def backbone(self) -> nn.Module:
        """The network that downstream tasks take by default."""
        return getattr(self, self.downstream)["backbone"]

    @property
    def left_out(self) -> list[str]:
        """Patterns of the state's names outside the backbones: what downstream tasks leave out of a checkpoint."""
        patterns = set()
        for name in self.state_dict():
            first, *rest = name.split(".")
            depth = 2 if first in ("student", "teacher") else 1  # a network's part, or a part of the method itself
            if rest[:1] != ["backbone"]:
                patterns.add(".".join([*[first, *rest][:depth], "*"]) if rest else name)
        return sorted(patterns)

    def noise(self, views: Tensor, salt: int) -> Tensor | None:
        """Uniform numbers (branches, V·B) for the drop path of the student on crops (V, B, 3, S, S).

        They are drawn for the *global* batch from (seed, iteration, salt), and each process takes its images' columns:
        1, 2 or 4 processes drop the same branches of the same images.
        """
        backbone, (V, B) = self.student["backbone"], views.shape[:2]
        if not backbone.num_branches:
            return None
        rank, world = get_dist_info()
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.iteration, salt))
        noise = torch.rand(backbone.num_branches, V, B * world, generator=generator)
        return sent_to(views.device, noise[..., rank::world].flatten(1))  # image j of process r stands at j·world + r


def seed_of(*address: int) -> int:
    """A 63-bit seed for one address: the same everywhere, unrelated for addresses that differ."""
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def move_average(average: nn.Module, source: nn.Module, momentum: float) -> None:
    """average <- m·average + (1 - m)·source for all parameters at once; buffers are left alone."""
    torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - momentum)


def logged(**parts: Tensor) -> dict[str, Tensor]:
    """Parts of the loss for the log: detached, averaged over processes."""
    return {name: mean_over_processes(value.detach()) for name, value in parts.items()}
