"""The fingerprint is what the networks' formulas, written out on the tensors alone, say; and it sees a wrong model."""

import pytest
import torch
from networks_plain import written_out_tokens

from selfpatch.eval.checkpoints.certificate import TOLERANCE, fingerprint, fixed_image, largest_difference, not_finite
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer

VIT = {"embed_dim": 48, "depth": 3, "heads": 3, "patch_size": 8, "img_size": 32}
NETWORKS = {
    "DINO": lambda: VisionTransformer(**VIT),
    "SelfPatch": lambda: VisionTransformer(**VIT, cls_token=False, final_norm=False),
    "DINOv2": lambda: VisionTransformer(**VIT, layer_scale=0.5, register_tokens=4),
    "Swin": lambda: Swin(embed_dim=8, depths=(1, 2, 2, 1), heads=(1, 2, 4, 8), window=4),
}


@pytest.fixture(params=NETWORKS)
def model(request):
    torch.manual_seed(0)
    model = NETWORKS[request.param]()
    model.load_state_dict({name: 0.3 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()})
    return model.eval()


def test_the_fingerprint_is_what_the_formulas_say(model):
    expected = written_out_tokens(model.state_dict(), model.arch, fixed_image(model.fingerprint_unit))
    assert largest_difference(fingerprint(model), expected) < TOLERANCE


def test_another_number_of_heads_is_another_fingerprint(model):
    before = fingerprint(model)
    for block in model.blocks:
        block.attn.heads = block.attn.num_heads = 4 * getattr(block.attn, "heads", 1)
    if model.place == "block":
        assert largest_difference(fingerprint(model), before) > 1e-3


def test_a_number_that_is_not_finite_is_named():
    state = {"norm.weight": torch.tensor([1.0, float("nan")]), "norm.bias": torch.zeros(2)}
    assert not_finite(state) == ["norm.weight"]
