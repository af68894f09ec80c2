"""DINO: self-distillation with no labels (Caron et al., arXiv 2104.14294)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.heads import DINOHead
from selfpatch.pretrain.losses import crop_pair_cross_entropy, move_centre, teacher_probabilities
from selfpatch.pretrain.method import Method, frozen_copy, logged, move_average
from selfpatch.pretrain.schedules import DINOSchedule


@MODELS.register_module()
class DINOPretraining(Method):
    """The student sees every crop and learns the teacher's answer to the global ones; the teacher is its average.

    Args:
        backbone: config of the student's backbone; the teacher's is the same without drop path.
        out_dim: number of logits of the [CLS] head.
        hidden_dim, bottleneck_dim: widths of the head.
        student_temp: τ_s. (The teacher's τ_t belongs to the schedule.)
        centre_momentum: momentum of the centre of the teacher's logits.
    """

    display_name = "DINO"
    schedule_class = DINOSchedule

    def __init__(
        self,
        backbone: dict,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        student_temp: float = 0.1,
        centre_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.student_temp, self.centre_momentum = student_temp, centre_momentum
        network = MODELS.build(backbone)
        head = DINOHead(network.embed_dim, out_dim, hidden_dim, bottleneck_dim)
        self.student = nn.ModuleDict({"backbone": network, "cls_head": head})
        self.register_buffer("cls_centre", torch.zeros(out_dim))
        self.make_teacher()

    def make_teacher(self) -> None:
        """Start the teacher as a copy of the student; call it once the student is complete."""
        self.teacher = frozen_copy(self.student).eval()

    def train(self, mode: bool = True) -> DINOPretraining:
        """Training mode for the student only: the teacher drops no paths."""
        super().train(mode)
        self.teacher.eval()
        return self

    def check_crops(self, sizes: Sequence[int], local: Sequence[int] = ()) -> None:
        """Refuse crops that give the teacher nothing to answer to, or two sizes at once."""
        super().check_crops(sizes, local)
        if not sizes or len(sizes) + len(local) < 2:
            raise UserError(
                f"the config's views give {len(sizes)} global and {len(local)} local crops of an image: at least one "
                "global crop is compared with at least one other: raise a count in views"
            )
        if len(set(sizes)) > 1:
            given = " and ".join(map(str, sorted(set(sizes))))
            raise UserError(f"global crops of {given} pixels: the teacher's must be of one size (views.<name>.size)")

    def loss(self, crops: list[Tensor]) -> dict[str, Tensor]:
        """DINO's loss of normalised crops, one tensor (V, B, 3, S, S) a group, the global crops first."""
        student = torch.cat([self.embed_student(views, salt) for salt, views in enumerate(crops)])  # (V, B, C)
        with torch.no_grad():
            V, B = crops[0].shape[:2]
            teacher, _, _ = self.teacher["backbone"](crops[0].flatten(0, 1))
            bottleneck = self.teacher["cls_head"].bottleneck(teacher).view(V, B, -1)
        loss = self.distil_cls(student, bottleneck, teacher_crops=V)
        return {"loss": loss, **logged(cls=loss)}

    def embed_student(self, views: Tensor, salt: int) -> Tensor:
        """The student's [CLS] (V, B, C) of the crops (V, B, 3, S, S) of one size."""
        V, B = views.shape[:2]
        backbone = self.student["backbone"]
        feature, _, _ = backbone(views.flatten(0, 1), self.noise(V, B, backbone, salt))
        return feature.view(V, B, -1)

    def distil_cls(self, student: Tensor, bottleneck: Tensor, teacher_crops: int) -> Tensor:
        """The image-level loss; moves the centre once it is computed.

        Args:
            student: the student's tokens (V, B, C).
            bottleneck: the teacher's bottleneck features (V', B, D), of which all enter the centre.
            teacher_crops: how many of them, from the first, are targets.
        """
        with torch.no_grad():
            # the last layer is linear: the mean logit is the logit of the mean feature, one more row of the product
            rows = torch.cat([bottleneck[:teacher_crops].flatten(0, 1), bottleneck.flatten(0, 1).mean(0, keepdim=True)])
            logits, mean = self.teacher["cls_head"].last_layer(rows).split([len(rows) - 1, 1])
            targets = teacher_probabilities(logits, self.cls_centre, self.step.teacher_temp)
        targets = targets.unflatten(0, (teacher_crops, -1))  # (Q, B, K)
        loss = crop_pair_cross_entropy(self.student["cls_head"](student), targets, self.student_temp)
        move_centre(self.cls_centre, mean[0], self.centre_momentum)
        return loss

    @torch.no_grad()
    def diagnose(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's patch tokens, and its targets for the image level."""
        feature, tokens, _ = self.teacher["backbone"](images)
        return tokens, {"cls": self.cls_targets(feature)}

    def cls_targets(self, feature: Tensor) -> Tensor:
        """The teacher's probabilities (B, K) for its global tokens (B, C)."""
        return teacher_probabilities(self.teacher["cls_head"](feature), self.cls_centre, self.step.teacher_temp)

    def after_step(self) -> None:
        """Move the teacher towards the student (arXiv 2104.14294, section 3.1)."""
        move_average(self.teacher, self.student, self.step.momentum)

    def frozen_at_first(self) -> list[nn.Parameter]:
        """The last layers of the student's heads."""
        return [p for name, p in self.student.named_parameters() if ".last_layer." in name and p.requires_grad]
