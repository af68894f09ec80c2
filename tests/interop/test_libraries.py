"""Models of transformers and timm, saved their way, through the door: the same tokens as in their own forward pass."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from selfpatch.eval.checkpoints import load as door
from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.checkpoints.sources import Source, read_source
from selfpatch.pretrain.cli import UserError

models = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
TOLERANCE = 1e-4  # float32


@pytest.fixture(scope="module")
def saved(request, tmp_path_factory):
    """A library's model, the folder that the library saved it in, and its tokens of an image: (library, name)."""
    library, name = request.param
    folder = tmp_path_factory.mktemp("saved")
    if library == "transformers":
        model = models.hugging_face(request.getfixturevalue("transformers"), name)
        model.save_pretrained(folder)
        return model, folder, models.hugging_face_tokens, models.HUGGING_FACE[name][3]
    timm = request.getfixturevalue("timm")
    model = models.timm_model(timm, name)
    arguments = {key: value for key, value in models.TIMM[name][1].items() if key != "img_size"}
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model, folder, models.timm_tokens, models.TIMM[name][2]


EVERY = [("transformers", name) for name in models.HUGGING_FACE] + [("timm", name) for name in models.TIMM]
every_model = pytest.mark.parametrize("saved", EVERY, ids=[": ".join(pair) for pair in EVERY], indirect=True)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return (found - expected).abs().max().item()


@every_model
def test_the_tokens_are_the_librarys(saved, record_property):
    model, folder, tokens_of, method = saved
    loaded = load_backbone(folder)
    assert loaded.method == method
    assert loaded.heads_from in ("config.json", "its tensors")
    worst, network = 0.0, loaded.model
    for size in models.SWIN_SIZES if network.place == "stage" else (models.NATIVE, models.OTHER):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        last, taps = tokens_of(model, images)
        with torch.no_grad():
            places = range(len(network.widths))
            if network.place == "block":
                own, _ = network.tokens_of(images, places, norm=False)
                normed = network.tokens_of(images, [-1])[0][0]
            else:
                own = [tap.flatten(2).mT for tap in network.forward_intermediates(images, places, norm=False)]
                if len(taps) == 4 and taps[0].shape != own[0].shape:  # transformers' are after the merging of patches
                    grids = network.stages(images)
                    own = [network.layers[i].downsample(grids[i]).flatten(1, 2) for i in range(3)] + own[3:]
                normed = network(images)[1]
        worst = max(worst, difference(normed, last), *(difference(o, t) for o, t in zip(own, taps, strict=True)))
    record_property("largest_difference", worst)
    print(f"largest difference {worst:.1e}")
    assert worst < TOLERANCE


@every_model
def test_any_backbone_tensor_removed_added_or_reshaped_is_named(saved, monkeypatch):
    source = read_source(saved[1])
    whole = dict(source.content)
    loaded = load_backbone(saved[1])
    later = re.compile(r"\.[12]\.(?!blocks)|layers\.[1-3]\.blocks")  # the first block stands for the others
    backbone = {name for name in loaded.file_names if not later.search(name)}
    assert len(backbone) > 15
    optional = ["embeddings.register_tokens", "reg_token"]  # without them it is a whole ViT without registers
    if "pos_embed" in whole and whole["pos_embed"].shape[1] == 64:
        optional.append("cls_token")  # the table has no row for it

    def refuses(content: dict, name: str) -> None:
        monkeypatch.setattr(door, "read_source", lambda *_: Source(content, source.files, source.facts))
        with pytest.raises(UserError) as error:
            load_backbone(saved[1])
        assert name in str(error.value), f"{name}: {error.value}"

    for name in sorted(backbone):
        if name not in optional:
            refuses({key: tensor for key, tensor in whole.items() if key != name}, name)
        refuses({**whole, name: torch.cat([whole[name]] * 2, dim=-1)}, name)
    some = next(name for name in sorted(backbone) if ".0." in name).rpartition(".0.")[0]
    refuses({**whole, f"{some}.0.unheard_of.weight": torch.zeros(3)}, "unheard_of")


def test_a_state_dict_of_memory_loads_too(transformers, tmp_path):
    """Version 5 holds its models under other names than it saves them."""
    for name in ("ViT", "DINOv2", "DINOv3", "Swin"):
        model = models.hugging_face(transformers, name)
        model.save_pretrained(tmp_path / "disk")
        torch.save(model.state_dict(), tmp_path / "memory.pth")
        heads = None if name == "Swin" else models.HEADS
        memory = load_backbone(tmp_path / "memory.pth", heads=heads)
        assert memory.weights_sha256 == load_backbone(tmp_path / "disk").weights_sha256


def test_the_certificate_says_what_differs_between_twins(transformers, tmp_path):
    models.hugging_face(transformers, "ViT").save_pretrained(tmp_path)
    coverage, features = load_backbone(tmp_path).certificate
    assert "q, k, v joined in this order" in coverage
    assert "heads 3 by config.json" in coverage
    assert "norms with eps 1e-12 by config.json" in features
    assert "bicubic, by size" in features
