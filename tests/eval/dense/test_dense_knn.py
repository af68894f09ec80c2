"""Dense k-NN: the look-up against one written out in full, bounded memory, labels of patches, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from selfpatch.eval.checkpoints.pixels import Pixels
from selfpatch.eval.dense import dense_knn
from selfpatch.eval.dense.dense_knn import LookupSettings, Memory, chosen_patches, patch_labels, upsampled_argmax
from selfpatch.pretrain.cli import UserError


def half(x: torch.Tensor) -> torch.Tensor:
    return x.half().float()


@pytest.mark.parametrize("block", [7, 50, 1000])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_the_look_up_is_that_of_the_whole_product_whatever_the_blocks(tmp_path, monkeypatch, block, k):
    monkeypatch.setattr(dense_knn, "BLOCK", block)
    torch.manual_seed(0)
    stored, queries = (F.normalize(torch.randn(n, 16), dim=1) for n in (50, 9))
    labels = torch.rand(50, 4)
    memory = Memory(tmp_path, 60, 16, 4)
    for x, y in zip(stored.split(20), labels.split(20)):
        memory.add(x, y)
    cosines = queries @ half(stored).T
    kept = cosines.masked_fill(cosines < cosines.sort(1).values[:, -k, None], -torch.inf)
    torch.testing.assert_close(memory.look_up(queries, k, 0.02), (kept / 0.02).softmax(1) @ half(labels))
    assert not list(tmp_path.iterdir()), "working files vanish"


def test_a_patch_has_the_shares_of_its_labelled_pixels():
    labels = np.full((4, 6), 255, np.uint8)
    labels[0, 0], labels[:2, 1] = 1, 0
    labels[2:, 4:] = 2
    shares = patch_labels(labels, (2, 3), 2, 3)
    assert shares[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert shares[5].tolist() == [0, 0, 1]
    assert shares[1:5].sum() == 0


def test_a_bounded_memory_takes_rare_classes_first_and_the_same_ones_every_time():
    labels = F.one_hot(torch.tensor([0] * 90 + [1] * 5 + [2] * 3)).float()
    labels = torch.cat([labels, torch.zeros(2, 3)])  # two patches without labels
    taken = chosen_patches(labels, 20, image=3)
    assert taken.tolist() == chosen_patches(labels, 20, image=3).tolist()
    assert len(taken) == 20
    assert set(range(90, 98)) <= set(taken.tolist())
    assert taken.tolist() != chosen_patches(labels, 20, image=4).tolist()
    assert len(chosen_patches(labels, 1000, image=0)) == 98


@pytest.mark.parametrize("classes", [3, 40])
def test_the_argmax_of_few_classes_at_a_time_is_that_of_all(classes):
    soft = torch.rand(3, 5, classes, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(soft.permute(2, 0, 1)[None], size=(20, 31), mode="bilinear", align_corners=False)
    assert (upsampled_argmax(soft, (20, 31)) == whole[0].argmax(0).numpy()).all()


class Colours(nn.Module):
    """A backbone whose features are the mean colours of patches of 8 pixels."""

    stride = 8

    def forward(self, images):
        x = F.avg_pool2d(images, 8)
        return None, x.flatten(2).transpose(1, 2), x.shape[2:]


COLOURS = dense_knn.Encoder(Colours(), 64, Pixels())


@pytest.fixture
def pairs(tmp_path):
    """Five pictures whose left half is red (label 1) and whose right half is blue (2), with a row that has no label."""
    found = []
    for i in range(5):
        picture, labels = np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48), np.uint8)
        picture[:, :24, 0], picture[:, 24:, 2] = 200 + i, 200 + i
        labels[1:, :24], labels[1:, 24:] = 1, 2
        paths = tmp_path / f"{i}.png", tmp_path / f"{i}_labels.png"
        for array, path in zip((picture, labels), paths):
            Image.fromarray(array).save(path)
        found.append(paths)
    return found


def test_what_looks_alike_gets_the_same_label(pairs, tmp_path):
    found = list(dense_knn.segment(COLOURS, LookupSettings(k=5), pairs[:3], pairs[3:], 2, tmp_path / "work"))
    assert [path for path, _, _ in found] == [picture for picture, _ in pairs[3:]]
    for _, predicted, truth in found:
        assert predicted.shape == truth.shape
        assert (truth[0] == 255).all()
        assert (predicted == truth)[1:].all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"k": 193}, "--k 193: 3 training images of 64 patches give only 192 neighbours"),
        ({"k": 10, "memory": 9}, "--k 10: 3 training images of 3 patches give only 9 neighbours"),
        ({"memory": 2}, "--memory 2: 3 training images need at least one patch each"),
    ],
)
def test_too_few_patches_are_one_line(pairs, tmp_path, options, told):
    with pytest.raises(UserError, match=told):
        list(dense_knn.segment(COLOURS, LookupSettings(**options), pairs[:3], pairs[3:], 2, tmp_path))


def test_a_label_beyond_the_classes_is_one_line(pairs, tmp_path):
    with pytest.raises(UserError, match=r"0_labels\.png has label 2 but there are 1 classes"):
        list(dense_knn.segment(COLOURS, LookupSettings(k=1), pairs[:3], pairs[3:], 1, tmp_path))


def test_neither_mmseg_nor_mmdet_is_imported():
    script = "import sys, selfpatch.eval.dense.dense_knn; assert not {'mmseg', 'mmdet'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
