"""What ``--to hf`` writes loads in transformers with equal tokens, and comes back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from selfpatch.eval.checkpoints.convert import main
from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.pretrain.checkpoint import save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer

VIT = {"embed_dim": 48, "depth": 2, "heads": 3, "patch_size": 8, "img_size": 32}
NETWORKS = {  # name: (network, the class of transformers that holds it)
    "DINO": (lambda: VisionTransformer(**VIT), "ViTModel"),
    "I-JEPA": (lambda: VisionTransformer(**VIT, cls_token=False), "IJepaModel"),
    "SelfPatch": (lambda: VisionTransformer(**VIT, cls_token=False, final_norm=False), "IJepaModel"),
    "DINOv2": (lambda: VisionTransformer(**VIT, layer_scale=1.0), "Dinov2Model"),
    "DINOv2, giant": (lambda: VisionTransformer(**VIT, layer_scale=1.0, swiglu=True, mlp_width=128), "Dinov2Model"),
    "registers": (lambda: VisionTransformer(**VIT, layer_scale=1.0, register_tokens=4), "Dinov2WithRegistersModel"),
    "DINOv3": (
        lambda: VisionTransformer(**VIT, layer_scale=1.0, register_tokens=4, rope=True, eps=1e-5),
        "DINOv3ViTModel",
    ),
    "Swin": (lambda: Swin(embed_dim=16, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8), window=4), "SwinModel"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_folder_loads_offline_and_comes_back(name, transformers, tmp_path, capsys):
    build, kind = NETWORKS[name]
    torch.manual_seed(0)
    network = build()
    state = network.state_dict()
    for key, tensor in state.items():
        if key != "rope_embed.periods":
            tensor.copy_(0.2 * torch.randn_like(tensor) + ("norm" in key and key.endswith("weight")))
    meta = {"method": "Mine", "arch": network.arch, "epoch": 7, "mean": [0.5, 0.5, 0.5], "train_data": "photos"}
    save_file(
        {"meta": meta, "state_dict": {f"teacher.backbone.{k}": t for k, t in state.items()}}, tmp_path / "own.pth"
    )
    main([str(tmp_path / "own.pth"), str(tmp_path / "hf"), "--to", "hf", "--records", str(tmp_path / "none")])
    assert f"as a {kind} of transformers" in (told := capsys.readouterr().out)
    assert "AutoModel.from_pretrained gives the checkpoint's features" in told
    own, again = load_backbone(tmp_path / "own.pth"), load_backbone(tmp_path / "hf")
    assert (again.weights_sha256, again.arch, again.method) == (own.weights_sha256, own.arch, "Mine")
    assert (again.epoch, again.train_data, again.mean) == (7, "photos", (0.5, 0.5, 0.5))
    assert json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())["image_mean"] == [0.5, 0.5, 0.5]
    with pytest.raises(UserError, match="name a new folder"):
        main([str(tmp_path / "own.pth"), str(tmp_path / "hf"), "--to", "hf"])


def test_the_model_card_tells_the_records_of_these_weights(transformers, tmp_path):
    torch.manual_seed(0)
    torch.save(VisionTransformer(**VIT).state_dict(), tmp_path / "bare.pth")
    loaded = load_backbone(tmp_path / "bare.pth", heads=3)
    record = {
        "task": "davis", "dataset": "davis2017-val", "dataset_fingerprint": "0" * 64, "split": "val",
        "protocol": {"name": "davis2017-dino@1", "parameters": {}}, "method": "ViT", "arch": loaded.arch,
        "pretrain_epochs": None, "seed": None, "checkpoint": "bare.pth",
        "checkpoint_sha256": loaded.checkpoint_sha256, "weights_sha256": loaded.weights_sha256,
        "certificate": [], "config": None, "versions": {}, "device": "cpu", "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0, "miniature": True, "metrics": {"J&F": 61.23, "J": 60.0, "F": 62.0}, "units": None, "notes": [],
    }  # fmt: skip
    (records := tmp_path / "records").mkdir()
    (records / "mine.json").write_text(json.dumps(record))
    (records / "another.json").write_text(json.dumps({**record, "weights_sha256": "1" * 64}))
    (records / "broken.json").write_text("{")
    main([str(tmp_path / "bare.pth"), str(tmp_path / "hf"), "--heads", "3", "--to", "hf", "--records", str(records)])
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.count("davis2017-dino@1") == 1
    assert "J&F 61.23" in card
    assert "miniature: no benchmark figures" in card
    assert "does not tell what trained it" in card
    (result, *others) = yaml.safe_load(Path(tmp_path / "hf" / ".eval_results" / "selfpatch.yaml").read_text())
    assert result["dataset"] == {"id": "davis2017-val", "task_id": "davis/J&F"}
    assert result["value"] == 61.23
    assert "miniature" in result["notes"]
    assert not others


def test_what_no_class_of_transformers_holds_is_refused(transformers, tmp_path):
    network = VisionTransformer(**VIT, register_tokens=2)
    state = {f"teacher.backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    save_file({"meta": {"method": "Mine", "arch": network.arch}, "state_dict": state}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="transformers has no ViT with registers"):
        main([str(tmp_path / "odd.pth"), str(tmp_path / "hf"), "--to", "hf"])
    assert not (tmp_path / "hf").exists()
    assert not list(tmp_path.glob(".hf*"))
