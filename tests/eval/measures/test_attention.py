"""Measures of attention rows against values that can be said by heart; the rows against torch's kernel."""

import math

import pytest
import torch
import torch.nn.functional as F

from selfpatch.eval.measures import attention
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer

GRID, QUERIES = (3, 4), torch.tensor([0, 5, 11])


def test_identical_maps_are_wholly_similar():
    rows = torch.rand(12).softmax(-1).expand(2, 3, 12)
    torch.testing.assert_close(attention.similarity(rows), torch.ones(2, dtype=torch.float64))


def test_maps_that_share_nothing_are_not_similar():
    rows = torch.eye(12)[QUERIES].expand(2, 3, 12)
    assert attention.similarity(rows).tolist() == [0, 0]


def test_similarity_is_the_mean_cosine_of_all_pairs():
    rows = torch.rand(4, 12).softmax(-1)
    pairs = [F.cosine_similarity(rows[i], rows[j], dim=0) for i in range(4) for j in range(i)]
    assert float(attention.similarity(rows)) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)


def test_one_query_has_no_pair():
    assert math.isnan(attention.similarity(torch.ones(1, 12) / 12))


def test_who_looks_at_itself_looks_nowhere_far():
    rows = torch.eye(12)[QUERIES]
    assert float(attention.distance(rows, QUERIES, GRID, 16)) == 0


def test_distance_is_in_pixels():
    rows = torch.zeros(1, 12)
    rows[0, 11] = 1  # from the first patch to the last: 2 rows down, 3 columns right
    assert float(attention.distance(rows, torch.tensor([0]), GRID, 16)) == pytest.approx(16 * math.hypot(2, 3))


def test_entropy_is_one_where_all_is_looked_at_alike_and_zero_where_one_is():
    assert float(attention.entropy(torch.full((3, 12), 1 / 12))) == pytest.approx(1)
    assert float(attention.entropy(torch.eye(12)[QUERIES])) == 0


def test_what_stays_on_the_own_label():
    labels = torch.tensor([1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    rows = torch.full((2, 3, 12), 1 / 12)
    found = attention.own_share(rows, QUERIES, labels)  # queries of labels 1, 1, 0
    torch.testing.assert_close(found, torch.full((2,), (3 + 3 + 9) / 36))


@pytest.mark.parametrize(
    "options", [{}, {"cls_token": False}, {"register_tokens": 2}, {"rope": True, "register_tokens": 1}]
)
def test_rows_of_a_vit_are_what_torch_computes_from_the_same_queries_and_keys(options):
    """The kernel with one-hot values gives the whole attention matrix; the patches' part of it is renormalised."""
    torch.manual_seed(0)
    model = VisionTransformer(embed_dim=24, depth=2, heads=3, img_size=32, patch_size=8, **options).eval()
    images, queries = torch.randn(2, 3, 32, 24), torch.tensor([3, 0, 7])
    with torch.no_grad():
        (first, last), grid = model.attention(images, [0, -1], queries)
        x, _ = model.embed(images)
        for block, found in zip(model.blocks, (first, last)):
            turn = model._turn(grid)
            q, k, _ = block.attn.split(block.norm1(x), turn)
            eye = torch.eye(x.shape[1]).expand(*q.shape[:3], -1)
            whole = F.scaled_dot_product_attention(q, k, eye)[..., model.num_prefix :, model.num_prefix :]
            expected = whole[:, :, queries] / whole[:, :, queries].sum(-1, keepdim=True)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
            x = block(x, None, turn)
    assert grid == (4, 3)


def test_windows_are_refused():
    with pytest.raises(UserError, match="a swin attends within windows"):
        Swin(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1)).attention(torch.zeros(1, 3, 64, 64), [0], QUERIES)
