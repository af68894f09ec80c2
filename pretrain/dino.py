"""DINO: self-distillation with no labels (Caron et al., arXiv 2104.14294)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from selfpatch.pretrain.backbone import build_backbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.heads import DINOHead
from selfpatch.pretrain.losses import crop_pair_cross_entropy, move_center, teacher_probabilities
from selfpatch.pretrain.method import Method, logged, move_average
from selfpatch.pretrain.schedules import DINOSchedule
from selfpatch.pretrain.settings import Count, Positive, Share


class DINOPretraining(Method):
    """The student sees every crop and learns the teacher's answer to the global ones; the teacher is its average.

    Args:
        backbone: config of the student's backbone; the teacher's is the same without drop path.
        out_dim: number of logits of the [CLS] head.
        hidden_dim, bottleneck_dim: widths of the head.
        student_temp: τ_s. (The teacher's τ_t belongs to the schedule.)
        center_momentum: momentum of the center, the mean of the teacher's logits.
    """

    display_name = "DINO"
    schedule_class = DINOSchedule

    def __init__(
        self,
        backbone: dict,
        out_dim: Count = 65536,
        hidden_dim: Count = 2048,
        bottleneck_dim: Count = 256,
        student_temp: Positive = 0.1,
        center_momentum: Share = 0.9,
    ) -> None:
        super().__init__()
        self.student_temp, self.center_momentum = student_temp, center_momentum
        network = build_backbone(backbone)
        self.add(backbone=network, cls_head=DINOHead(network.embed_dim, out_dim, hidden_dim, bottleneck_dim))
        self.register_buffer("cls_center", torch.zeros(out_dim))

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
        student = []
        for salt, views in enumerate(crops):
            tokens, _, _ = self.student["backbone"](views.flatten(0, 1), self.noise(views, salt))
            student.append(tokens.view(*views.shape[:2], -1))  # (V, B, C)
        with torch.no_grad():
            V, B = crops[0].shape[:2]
            teacher = self.teacher["backbone"](crops[0].flatten(0, 1))[0].view(V, B, -1)
        loss = self.distil_cls(torch.cat(student), teacher, teacher_crops=V)
        return {"loss": loss, **logged(cls=loss)}

    def distil_cls(self, student: Tensor, teacher: Tensor, teacher_crops: int) -> Tensor:
        """The image-level loss; moves the center once it is computed.

        Args:
            student: the student's global tokens (V, B, C).
            teacher: the teacher's (V', B, C), of which all enter the center.
            teacher_crops: how many of them, from the first, are targets.
        """
        with torch.no_grad():
            logits, mean = self.teacher["cls_head"].with_mean(teacher.flatten(0, 1), teacher_crops * teacher.shape[1])
            targets = teacher_probabilities(logits, self.cls_center, self.step.teacher_temp)
        targets = targets.unflatten(0, (teacher_crops, -1))  # (Q, B, K)
        loss = crop_pair_cross_entropy(self.student["cls_head"](student), targets, self.student_temp)
        move_center(self.cls_center, mean, self.center_momentum)
        return loss

    @torch.no_grad()
    def diagnose(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        feature, tokens, _ = self.teacher["backbone"](images)
        return tokens, {"cls": self.cls_targets(feature)}

    def cls_targets(self, feature: Tensor) -> Tensor:
        """The teacher's probabilities (B, K) for its global tokens (B, C)."""
        return teacher_probabilities(self.teacher["cls_head"](feature), self.cls_center, self.step.teacher_temp)

    def after_step(self) -> None:
        """Move the teacher towards the student (arXiv 2104.14294, section 3.1)."""
        move_average(self.teacher, self.student, self.step.momentum)

    def frozen_at_first(self) -> list[nn.Parameter]:
        """The last layers of the student's heads."""
        return [p for name, p in self.student.named_parameters() if ".last_layer." in name and p.requires_grad]
