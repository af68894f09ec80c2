"""The door for checkpoints: every family's layout goes in whole, and nothing that is broken goes in at all."""

import argparse
import re
from fnmatch import fnmatch
from functools import lru_cache

import numpy as np
import pytest
import torch
from recorded import MORE, golden_files
from safetensors.torch import save_file as save_safetensors

from selfpatch.eval.checkpoints import load as convert
from selfpatch.eval.checkpoints.certificate import weights_sha256
from selfpatch.eval.checkpoints.families import FAMILIES
from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.checkpoints.sources import Source
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer

DIM, DEPTH, HEADS = 48, 2, 3


def model_of(swin=False, **options):
    if swin:
        return Swin(embed_dim=8, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8), window=4, **options)
    return VisionTransformer(embed_dim=DIM, depth=DEPTH, heads=HEADS, patch_size=8, img_size=32, **options)


def network(seed=0, positions=None, **options):
    """Random tensors of a small ViT or Swin: every one non-trivial, so that none can be mistaken for a fresh one."""
    model = model_of(**options)
    generator = torch.Generator().manual_seed(seed)
    state = {name: 0.3 * torch.randn(t.shape, generator=generator) for name, t in model.state_dict().items()}
    if positions is not None:
        table = fixed_positions(4, across_first=positions != "MoCo v3")
        state["pos_embed"] = table[:, 1:] if positions == "I-JEPA" else table
    return state


def fixed_positions(side, across_first):
    """MAE's table of sines and cosines, or MoCo v3's, whose two halves are the other way round; (1, 1 + side², DIM)."""
    quarter = DIM // 4
    table = np.zeros((1 + side * side, DIM))
    for row in range(side):
        for column in range(side):
            place = (column, row) if across_first else (row, column)
            angles = [p / 10000 ** (k / quarter) for p in place for k in range(quarter)]
            waves = (
                np.sin(angles[:quarter]),
                np.cos(angles[:quarter]),
                np.sin(angles[quarter:]),
                np.cos(angles[quarter:]),
            )
            table[1 + row * side + column] = np.concatenate(waves)
    return torch.from_numpy(table).float()[None]


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def head(prefix, out=16):
    return {
        f"{prefix}mlp.0.weight": torch.randn(8, DIM),
        f"{prefix}mlp.0.bias": torch.randn(8),
        f"{prefix}mlp.2.weight": torch.randn(4, 8),
        f"{prefix}mlp.2.bias": torch.randn(4),
        f"{prefix}last_layer.weight_g": torch.ones(out, 1),
        f"{prefix}last_layer.weight_v": torch.randn(out, 4),
    }


def class_attention(prefix):
    names = ("norm1.weight", "attn.q.weight", "attn.k.weight", "attn.v.weight", "attn.proj.weight", "mlp.fc1.weight")
    return {
        f"{prefix}cls_token": torch.randn(1, 1, DIM),
        **{f"{prefix}cls_blocks.0.{name}": torch.randn(DIM, DIM) for name in names},
        f"{prefix}norm.weight": torch.randn(DIM),
    }


def classifier(name="head", width=DIM):
    return {f"{name}.weight": torch.randn(10, width), f"{name}.bias": torch.randn(10)}


def swin_buffers():
    """What the official Swin saves beside its parameters: it follows from the window and the image size."""
    index = torch.zeros(16, 16, dtype=torch.long)
    indices = {f"layers.{stage}.blocks.0.attn.relative_position_index": index for stage in range(4)}
    return {**indices, "layers.1.blocks.1.attn_mask": torch.zeros(4, 16, 16)}


def moby_head(prefix):
    norm = {f"{prefix}linear_hidden.2.{name}": torch.randn(8) for name in ("weight", "bias", "running_mean")}
    counted = {f"{prefix}linear_hidden.2.num_batches_tracked": torch.tensor(3)}
    return (
        {f"{prefix}linear_hidden.1.weight": torch.randn(8, DIM), f"{prefix}linear_out.weight": torch.randn(4, 8)}
        | norm
        | counted
    )


def bookkeeping(epoch=200):
    """What training scripts save beside the networks: an optimiser's state holds tensors, args are a Namespace."""
    return {
        "optimizer": {"state": {0: {"exp_avg": torch.randn(3), "step": 5}}, "param_groups": [{"lr": np.float64(1e-3)}]},
        "epoch": epoch,
        "args": argparse.Namespace(arch="vit_small", lr=5e-4, global_crops_scale=(0.25, 1.0)),
        "fp16_scaler": {"scale": 65536.0},
    }


# A builder takes the tensors of the default network and of the other one, and gives the file's content, the path to the
# dictionary that holds the default network, and the prefix of its names there.
def selfpatch_full(own, other):
    def whole(prefix, state):
        heads = head(f"{prefix}c_head.") | head(f"{prefix}p_head.", out=6)
        return under(f"{prefix}backbone.", state) | class_attention(f"{prefix}ca_head.") | heads

    losses = {"center": torch.zeros(1, 16), "patch_center": torch.zeros(1, 6)}
    return (
        {"student": whole("module.", other), "teacher": whole("", own), "dino_loss": losses, **bookkeeping()},
        ("teacher",),
        "backbone.",
    )


def dino_full(own, other):
    student = under("module.backbone.", other) | head("module.head.")
    teacher = under("module.backbone.", own) | head("module.head.")
    content = {"student": student, "teacher": teacher, "dino_loss": {"center": torch.zeros(1, 16)}, **bookkeeping(100)}
    return content, ("teacher",), "module.backbone."


def ibot_full(own, other):
    student = under("module.backbone.", other) | {"module.backbone.masked_embed": torch.zeros(1, DIM)}
    content = {
        "student": student | head("module.head."),
        "teacher": under("backbone.", own) | head("head."),
        "ibot_loss": {"center": torch.zeros(1, 16), "center2": torch.zeros(1, 1, 16)},
        **bookkeeping(),
    }
    return content, ("teacher",), "backbone."


def moby(own, other, buffers=()):
    queues = {"queue1": torch.randn(4, 8), "queue2": torch.randn(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    heads = moby_head("projector.") | moby_head("projector_k.") | moby_head("predictor.")
    encoders = under("encoder.", own | dict(buffers)) | under("encoder_k.", other | dict(buffers))
    model = encoders | heads | queues
    return {"model": model, "lr_scheduler": {"t": 1}, "max_accuracy": 0.0, **bookkeeping(299)}, ("model",), "encoder."


def mocov3_full(own, other):
    projector = {"head.0.weight": torch.randn(8, DIM), "head.1.running_mean": torch.randn(8)}
    names = under("module.base_encoder.", own | projector) | under("module.momentum_encoder.", other | projector)
    content = {"epoch": 300, "arch": "vit_small", "optimizer": bookkeeping()["optimizer"]}
    return (
        content | {"state_dict": names | {"module.predictor.0.weight": torch.randn(8, 8)}},
        ("state_dict",),
        "module.base_encoder.",
    )


def mocov3_linear(own, other):
    content = {"epoch": 90, "arch": "vit_small", "best_acc1": torch.tensor(73.2)}
    return content | {"state_dict": under("module.", own | classifier())}, ("state_dict",), "module."


def mae_full(own, other):
    decoder = {
        "mask_token": torch.zeros(1, 1, 32),
        "decoder_embed.weight": torch.randn(32, DIM),
        "decoder_pos_embed": torch.randn(1, 17, 32),
        "decoder_blocks.0.norm1.weight": torch.randn(32),
        "decoder_norm.weight": torch.randn(32),
        "decoder_pred.weight": torch.randn(768, 32),
    }
    return {"model": own | decoder, "scaler": {"scale": 1.0}, **bookkeeping(399)}, ("model",), ""


def dinov2_train(own, other):
    chunked = {name.replace("blocks.", "blocks.0."): tensor for name, tensor in own.items()}
    teacher = under("backbone.", chunked | {"mask_token": torch.zeros(1, DIM)})
    return {"teacher": teacher | head("dino_head.") | head("ibot_head.")}, ("teacher",), "backbone."


def timm_registers(own, other):
    """timm's DINOv2 with registers: [CLS] has its position added in, and no row of its own in the table."""
    merged = own["cls_token"] + own["pos_embed"][:, :1]
    return flat(own | {"cls_token": merged, "pos_embed": own["pos_embed"][:, 1:]}, reg_token=own["register_tokens"])


def swin_timm(own):
    """timm's stages begin with the merging of patches."""
    moved = {re.sub(r"(\d)\.downsample", lambda m: f"{int(m[1]) + 1}.downsample", name): t for name, t in own.items()}
    return {**moved, **classifier("head.fc", width=64)}, (), ""


def flat(state, **extra):
    kept = {name: tensor for name, tensor in state.items() if name != "register_tokens" or "reg_token" not in extra}
    return {**kept, **extra}, (), ""


def wrapped(wrapper, **extra):
    return lambda own, other: ({wrapper: own | extra}, (wrapper,), "")


BESIDE = ["student.aggregation.*", "student.cls_head.*", "teacher.cls_head.*", "teacher.patch_head.*", "cls_centre"]
ours_meta = {"method": "DINO+SelfPatch", "epoch": 7, "seed": 3, "config": {"lr": 0.1}, "train_data": "toy"}


def ours(own, other, method="DINO+SelfPatch", networks=("teacher", "student"), **options):
    first, second = networks
    arch = model_of(**(options or NO_CLS)).arch
    heads = under("student.aggregation.", {"cls_token": torch.zeros(1, 1, DIM)}) | head("student.cls_head.")
    heads |= head("teacher.cls_head.") | head("teacher.patch_head.") | {"cls_centre": torch.zeros(16)}
    content = {
        "meta": {**ours_meta, "method": method, "arch": arch, "beside": BESIDE},
        "state_dict": under(f"{first}.backbone.", own) | under(f"{second}.backbone.", other) | heads,
        "optimizer": bookkeeping()["optimizer"],
    }
    return content, ("state_dict",), f"{first}.backbone."


def ours_moby(own, other):
    return ours(own, other, method="MoBY", networks=("student", "teacher"))


def masked(own, other):
    return wrapped("state_dict", masked_embed=torch.zeros(1, DIM))(own, other)


NO_CLS = {"cls_token": False, "final_norm": False}
V2 = {"layer_scale": 1.0}
SWIN = {"swin": True}
LAYOUTS = {  # layout: (the family it must be recognised as, its ViT's options, builder)
    "ours": ("ours", NO_CLS, ours),
    "ours, MoBY": ("ours", NO_CLS, ours_moby),
    "SelfPatch": ("selfpatch", NO_CLS, selfpatch_full),
    "SelfPatch, backbone": ("selfpatch-backbone", NO_CLS, lambda own, other: flat(own)),
    "DINO": ("dino", {}, dino_full),
    "DINO, backbone": ("vit-plain", {}, lambda own, other: flat(own)),
    "iBOT": ("ibot", {}, ibot_full),
    "iBOT, backbone": ("ibot-backbone", {}, masked),
    "ViT": ("vit-plain", {}, wrapped("state_dict")),
    "MoBY, DeiT": ("moby", {}, moby),
    "MoBY, Swin": ("moby", SWIN, lambda own, other: moby(own, other, swin_buffers())),
    "Swin": ("swin", SWIN, wrapped("model", **swin_buffers(), **classifier(width=64))),
    "Swin, anyone's": ("swin-plain", SWIN, lambda own, other: flat(own)),
    "Swin, timm": ("swin-timm", SWIN, lambda own, other: swin_timm(own)),
    "ours, Swin": (
        "ours",
        {**SWIN, "final_norm": False},
        lambda own, other: ours(own, other, swin=True, final_norm=False),
    ),
    "MoCo v3": ("mocov3", {}, mocov3_full),
    "MoCo v3, linear": ("mocov3-backbone", {}, mocov3_linear),
    "MoCo v3, backbone": ("mocov3-backbone", {"positions": "MoCo v3"}, wrapped("model")),
    "MAE": ("mae", {}, mae_full),
    "MAE, encoder": ("mae-encoder", {"positions": "MAE"}, wrapped("model")),
    "MAE, fine-tuned": (  # its positions have been trained: nothing tells it from others
        "vit-timm",
        {"final_norm": False},
        wrapped("model", **{"fc_norm.weight": torch.randn(DIM), "fc_norm.bias": torch.randn(DIM)}, **classifier()),
    ),
    "DINOv2": ("dinov2-backbone", V2, lambda own, other: flat(own, mask_token=torch.zeros(1, DIM))),
    "DINOv2, registers": (
        "dinov2-backbone",
        {**V2, "register_tokens": 4},
        lambda own, other: flat(own, mask_token=torch.zeros(1, DIM)),
    ),
    "DINOv2, training": ("dinov2", V2, dinov2_train),
    "DeiT": ("deit", {}, wrapped("model", **classifier())),
    "timm": ("vit-timm", {}, lambda own, other: flat(own | classifier())),
    "timm, registers": ("vit-timm", {**V2, "register_tokens": 4}, timm_registers),
}
MMPRETRAIN = (
    ("blocks.", "layers."), ("norm1.", "ln1."), ("norm2.", "ln2."), ("mlp.fc1.", "ffn.layers.0.0."),
    ("mlp.fc2.", "ffn.layers.1."), ("ls1.gamma", "attn.gamma1.weight"), ("ls2.gamma", "ffn.gamma2.weight"),
    ("patch_embed.proj.", "patch_embed.projection."),
)  # fmt: skip


def vissl(own, other):
    names = {{"cls_token": "class_token", "pos_embed": "pos_embedding"}.get(name, name): t for name, t in own.items()}
    heads = {"0.mlp.0.weight": torch.randn(4, DIM)}
    model = {"classy_state_dict": {"base_model": {"model": {"trunk": names, "heads": heads}}}, "phase_idx": 3}
    return model, ("classy_state_dict", "base_model", "model", "trunk"), ""


def mmpretrain(own, other):
    def theirs(name):
        name = re.sub(r"^norm\.", "ln1.", name)
        for ours, new in MMPRETRAIN if name.startswith(("blocks.", "patch_embed.")) else ():
            name = name.replace(ours, new)
        return f"backbone.{name}"

    names = {theirs(name): tensor for name, tensor in own.items()}
    names |= {"head.layers.head.weight": torch.randn(10, DIM), "data_preprocessor.mean": torch.zeros(3, 1, 1)}
    return {"meta": {"epoch": 100}, "state_dict": names}, ("state_dict",), "backbone."


def dinov3_hub(own, other):
    """torch.hub's: registers under another name, the gate and the value of the MLP apart, the key's bias masked."""
    names = {}
    for name, tensor in own.items():
        if ".mlp.w12." in name:
            names[name.replace("w12", "w1")], names[name.replace("w12", "w2")] = tensor.chunk(2)
        elif name.endswith("qkv.bias"):
            names[name], names[f"{name}_mask"] = tensor + 1, torch.ones(3 * DIM)  # the key's is any number, and masked
            names[f"{name}_mask"][DIM : 2 * DIM] = 0
            tensor.copy_(names[name] * names[f"{name}_mask"])
        else:
            names[name.replace("register_tokens", "storage_tokens")] = tensor
    return {**names, "mask_token": torch.zeros(1, DIM)}, (), ""


def ijepa(own, other):
    predictor = {
        "module.predictor_blocks.0.norm1.weight": torch.ones(8),
        "module.predictor_embed.weight": torch.ones(8, DIM),
    }
    content = {
        "encoder": under("module.", other),
        "predictor": predictor,
        "target_encoder": under("module.", own),
        "opt": bookkeeping()["optimizer"],
        "epoch": 300,
    }
    return content, ("target_encoder",), "module."


V3 = {"layer_scale": 1.0, "register_tokens": 4, "rope": True, "swiglu": True, "mlp_width": 64, "eps": 1e-5}
LAYOUTS |= {
    "VISSL": ("vissl", {"eps": 1e-5}, vissl),
    "mmpretrain": ("mmpretrain", V2, mmpretrain),
    "DINOv3, hub": ("dinov3", V3, dinov3_hub),
    "I-JEPA": ("vit-no-cls", {"cls_token": False, "positions": "I-JEPA"}, ijepa),
}
IN_TESTS_INTEROP = {"hf-vit", "hf-dinov2", "hf-dinov2-registers", "hf-dinov3", "hf-swin", "dinov3-timm"}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


@lru_cache
def built(layout):
    _, options, build = LAYOUTS[layout]
    own, other = network(seed=1, **options), network(seed=2, **options)
    return *build(own, other), own


def content_of(layout):
    """A file's content, where in it the default network lies (path, prefix), and its tensors under our names."""
    content, path, prefix, own = built(layout)
    return copied(content), path, prefix, dict(own)


def copied(content):
    """New dictionaries, the same tensors."""
    return {k: copied(v) for k, v in content.items()} if isinstance(content, dict) else content


def network_in(content, path):
    for key in path:
        content = content[key]
    return content


def load(tmp_path, content, **kwargs):
    torch.save(content, tmp_path / "checkpoint.pth")
    return load_backbone(tmp_path / "checkpoint.pth", **kwargs)


def heads_of(layout):
    return {} if layout.startswith("ours") or "Swin" in layout else {"heads": HEADS}


def test_every_family_has_a_layout_here():
    covered = {family for family, _, _ in LAYOUTS.values()}
    assert covered == {family.name for family in FAMILIES} - {
        "pyramid",
        "swin-mmdet",
        *IN_TESTS_INTEROP,
    }  # pyramids: test_export.py


@each_layout
def test_a_family_converts_with_a_certificate(layout, tmp_path):
    content, _, _, own = content_of(layout)
    loaded = load(tmp_path, content, **heads_of(layout))
    assert loaded.family == LAYOUTS[layout][0]
    assert len(loaded.certificate) == 2
    assert str(len(own)) in loaded.certificate[0]
    if layout == "timm, registers":  # the same network, its [CLS] position added in
        own["cls_token"], own["pos_embed"] = own["cls_token"] + own["pos_embed"][:, :1], own["pos_embed"].clone()
        own["pos_embed"][:, 0] = 0
    assert own.keys() == loaded.model.state_dict().keys()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, own[name]), name
    assert not loaded.model.training


FLAT = ["SelfPatch, backbone", "DINO, backbone", "DINOv2", "DINOv2, registers", "timm", "timm, registers", "Swin, timm"]


@pytest.mark.parametrize("layout", FLAT)
def test_safetensors_hold_the_same(layout, tmp_path):
    content, _, _, own = content_of(layout)
    save_safetensors(content, tmp_path / "model.safetensors")
    loaded = load_backbone(tmp_path / "model.safetensors", **heads_of(layout))
    assert loaded.family == LAYOUTS[layout][0]
    name = "layers.1.blocks.0.attn.qkv.weight" if "Swin" in layout else "blocks.0.attn.qkv.weight"
    assert torch.equal(loaded.state[name], own[name])


def backbone_names(layout):
    content, path, prefix, own = content_of(layout)
    entry = network_in(content, path)
    tables = (f"{prefix}pos_embed", f"{prefix}cls_token")  # timm's registers come with others
    changed = (*tables, "*.mlp.w[12].*", "*.attn.qkv.bias*")  # DINOv3's are joined and masked
    return sorted(
        name
        for name, t in entry.items()
        if (name.startswith(prefix) and any(fnmatch(name, pattern) for pattern in changed))
        or any(t is kept for kept in own.values())
    )


CHANGES = {  # name: what becomes of a tensor; None: it is removed
    "removed": lambda t: None,
    "twice as wide": lambda t: torch.cat([t, t], dim=-1),
    "a column less": lambda t: t[..., :-1].contiguous(),
    "a first row less": lambda t: t[1:],
    "a row less": lambda t: t[:, :-1] if t.ndim > 1 else t[:-1],
    "a row more": lambda t: torch.cat([t, t[:, :1]], dim=1) if t.ndim > 1 else torch.cat([t, t[:1]]),
    "flat": lambda t: t.flatten() if t.ndim > 1 else t[None],
    "empty": lambda t: t.new_empty(0),
    "a number": lambda t: t.new_zeros(()),
}


@each_layout
@pytest.mark.parametrize("change", CHANGES)
def test_any_tensor_removed_or_reshaped_fails_with_its_name(layout, change, monkeypatch):
    """The file is not written each time: what is in it is what is in question, hundreds of times."""
    names = backbone_names(layout)
    assert len(names) >= len(built(layout)[3])
    for name in names:
        content, path, _, _ = content_of(layout)
        entry = network_in(content, path)
        changed = CHANGES[change](entry[name])
        if name.endswith(("register_tokens", "reg_token", "storage_tokens")) and change == "removed":
            continue  # without them it is a whole ViT without registers, such as DINOv2's first ones and DeiT III
        if name.endswith(("register_tokens", "reg_token", "storage_tokens")) and change in ("a row less", "a row more"):
            continue  # any number of them is a whole ViT
        if changed is None:
            del entry[name]
        else:
            entry[name] = changed
        monkeypatch.setattr(convert, "read_source", lambda *_, content=content: Source(content, ()))
        with pytest.raises(UserError) as error:
            load_backbone("unwritten.pth", **heads_of(layout))
        assert ours_of(name) in str(error.value), f"{name}: {error.value}"


def ours_of(name):
    """The end of a name that is the same in the file and in a message."""
    if name == "reg_token":
        return "reg"
    if "downsample" in name:  # timm counts its stages otherwise
        return name.partition(".downsample")[2]
    return name.rpartition("backbone.")[2].removeprefix("module.").rpartition("blocks.0.")[2]


@each_layout
@pytest.mark.parametrize("extra", ["blocks.0.attn.extra.weight", "blocks.77.norm1.weight", "dist_token", "unheard_of"])
def test_one_tensor_too_many_fails_with_its_name(layout, extra, tmp_path):
    content, path, prefix, _ = content_of(layout)
    network_in(content, path)[prefix + extra] = torch.randn(DIM)
    with pytest.raises(UserError, match=extra):
        load(tmp_path, content, **heads_of(layout))


@pytest.mark.parametrize("layout", ["SelfPatch", "SelfPatch, backbone"])
@pytest.mark.parametrize("extra", ["cls_token", "norm.weight"])
def test_selfpatch_with_a_part_of_dino_is_refused(layout, extra, tmp_path):
    content, path, prefix, _ = content_of(layout)
    network_in(content, path)[prefix + extra] = torch.randn(1, 1, DIM)
    with pytest.raises(UserError, match=extra):
        load(tmp_path, content, heads=HEADS)


WRAPPINGS = {  # name: (what is done to a file's dictionary of tensors, which network it then is)
    "model": (lambda names: {"model": names}, "backbone"),
    "state_dict": (lambda names: {"epoch": 3, "state_dict": names}, "backbone"),
    "state_dict beside a score": (lambda names: {"best_acc1": torch.tensor(70.0), "state_dict": names}, "backbone"),
    "model.": (lambda names: under("model.", names), "backbone"),
    "state_dict, module.": (lambda names: {"state_dict": under("module.", names)}, "backbone"),
    "backbone.": (lambda names: under("backbone.", names), "backbone"),
    "model, encoder.": (lambda names: {"model": under("encoder.", names)}, "backbone"),
    "teacher": (lambda names: {"teacher": names}, "teacher"),
    "teacher, module.backbone.": (lambda names: {"teacher": under("module.backbone.", names)}, "teacher"),
    "student": (lambda names: {"student": names}, "student"),
    "student, module.backbone.": (lambda names: {"student": under("module.backbone.", names)}, "student"),
    "teacher with a head": (lambda names: {"teacher": under("backbone.", names) | head("head.")}, "teacher"),
    "state_dict, student.backbone.": (lambda names: {"state_dict": under("student.backbone.", names)}, "student"),
}
CLAIMED = {"deit": "ViT", "swin": "Swin"}  # family: what its network is called in other files
SINGLE = [
    layout
    for layout, (family, _, _) in LAYOUTS.items()
    if family not in ("ours", "selfpatch", "ibot", "dino", "dinov2", "moby", "mocov3", "mmpretrain")
    and layout not in ("MoCo v3, linear", "I-JEPA")
]


@pytest.mark.parametrize("layout", SINGLE)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_of_every_network_is_undone(layout, wrapping, tmp_path):
    """The weights are the same, and nothing is called by a method that its tensors do not show."""
    content, path, _, _ = content_of(layout)
    wrap, which = WRAPPINGS[wrapping]
    plain = load(tmp_path, content, **heads_of(layout))
    loaded = load(tmp_path, wrap(network_in(content, path)), **heads_of(layout))
    assert loaded.weights_sha256 == plain.weights_sha256
    if wrapping == "model" and layout in ("DeiT", "Swin", "timm"):
        claimed = {"Swin": "Swin (supervised)"}.get(layout, "DeiT (supervised)")  # nothing else is published like this
    else:
        claimed = CLAIMED.get(plain.family, plain.method)
    assert loaded.method == claimed
    assert loaded.method_told == (claimed not in ("ViT", "Swin"))
    assert loaded.which == which or (which == "backbone" and loaded.which == plain.which == "teacher")


FULL = [name for name in LAYOUTS if name not in (*SINGLE, "MoCo v3, linear", "VISSL") and not name.startswith("ours")]


@pytest.mark.parametrize("layout", FULL)
@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_a_whole_training_checkpoint_may_be_wrapped_too(layout, wrapper, tmp_path):
    content, path, _, _ = content_of(layout)
    plain = load(tmp_path, content, **heads_of(layout))
    inner = network_in(content, path) if path in (("model",), ("state_dict",)) else content
    loaded = load(tmp_path, {wrapper: inner}, **heads_of(layout))
    assert (loaded.family, loaded.method) == (plain.family, plain.method)
    assert loaded.weights_sha256 == plain.weights_sha256


@pytest.mark.parametrize("which", [None, "teacher", "student"])
@pytest.mark.parametrize("prefixes", [("", ""), ("backbone.", "module.backbone.")])
@pytest.mark.parametrize("layout", ["SelfPatch, backbone", "DINO, backbone", "Swin, anyone's"])
def test_two_networks_without_their_heads(layout, prefixes, which, tmp_path):
    own, other = content_of(layout)[3], network(seed=2, **LAYOUTS[layout][1])
    content = {"teacher": under(prefixes[0], own), "student": under(prefixes[1], other)}
    loaded = load(tmp_path, content, which=which, **heads_of(layout))
    assert loaded.which == (which or "teacher")
    assert loaded.weights_sha256 == weights_sha256(other if which == "student" else own)
    assert loaded.method == {"S": "DINO+SelfPatch", "D": "ViT"}[layout[0]] if "Swin" not in layout else "Swin"


@pytest.mark.parametrize(
    ("layout", "prefix"),
    [("MoBY, DeiT", "encoder."), ("MoCo v3", "module.base_encoder."), ("DINO", "module.backbone.")],
)
def test_the_default_network_alone(layout, prefix, tmp_path):
    """Without the other network and what else a method trains; MoBY's prefix is anyone's."""
    content, path, _, _ = content_of(layout)
    names = {name: t for name, t in network_in(content, path).items() if name.startswith(prefix)}
    loaded = load(tmp_path, {"state_dict": names}, heads=HEADS)
    assert loaded.weights_sha256 == load(tmp_path, content, heads=HEADS).weights_sha256
    assert loaded.method == ("MoCo v3" if layout == "MoCo v3" else "ViT")


def test_a_teacher_alone_is_nobodys_but_ibots_head_is_its_own(tmp_path):
    own = content_of("iBOT")[3]
    teacher = under("backbone.", own) | head("head.")
    assert not load(tmp_path, {"teacher": teacher}, heads=HEADS).method_told
    teacher |= {f"head.last_layer2.{name}": torch.randn(4, 4) for name in ("weight_g", "weight_v")}
    assert load(tmp_path, {"teacher": teacher}, heads=HEADS).method == "iBOT"


@pytest.mark.parametrize("family", ["dino", "ibot"])
def test_a_swin_in_a_training_checkpoint_brings_its_buffers(family, tmp_path):
    own = network(1, swin=True)
    whole = {**own, **swin_buffers()}
    loss = {f"{family}_loss": {"center": torch.zeros(1, 16)}}
    more = {"masked_embed": torch.zeros(1, 8)} if family == "ibot" else {}
    networks = {"student": under("module.backbone.", whole | more) | head("module.head.")}
    loaded = load(tmp_path, {**networks, "teacher": under("backbone.", whole) | head("head."), **loss})
    assert (loaded.family, loaded.weights_sha256) == (family, weights_sha256(own))


@pytest.mark.parametrize("layout", ["DeiT", "Swin, anyone's", "timm"])
@pytest.mark.parametrize("average", ["model_ema", "state_dict_ema"])
def test_an_average_of_the_weights_is_left_out(layout, average, tmp_path):
    content, path, _, own = content_of(layout)
    names = network_in(content, path)
    loaded = load(tmp_path, {"model": names, average: names, **bookkeeping()}, **heads_of(layout))
    assert loaded.weights_sha256 == weights_sha256(own)
    assert f"{average}.*" in loaded.certificate[0]
    assert loaded.method == ("DeiT (supervised)" if (layout, average) == ("DeiT", "model_ema") else loaded.method)


def test_a_swin_tells_its_own_heads(tmp_path):
    with pytest.raises(UserError, match="leave --heads out"):
        load(tmp_path, content_of("Swin")[0], heads=3)


def test_an_unknown_part_beside_the_backbones_is_refused(tmp_path):
    content, _, _, _ = content_of("DINO")
    content["teacher"]["module.surprise.weight"] = torch.randn(3)
    with pytest.raises(UserError, match=r"surprise\.weight"):
        load(tmp_path, content, heads=HEADS)


def test_many_wrong_names_are_counted_not_listed(tmp_path):
    content, _, _, _ = content_of("DINO, backbone")
    content |= {f"extra{i}": torch.randn(2) for i in range(12)}
    with pytest.raises(UserError, match="… and 7 more"):
        load(tmp_path, content, heads=HEADS)


@pytest.mark.parametrize(
    ("layout", "default", "other"),
    [("SelfPatch", "teacher", "student"), ("DINO", "teacher", "student"), ("MoBY, DeiT", "student", "key"),
     ("MoCo v3", "student", "teacher"), ("ours", "teacher", "student"), ("ours, MoBY", "student", "key")],
)  # fmt: skip
def test_which_network_is_taken(layout, default, other, tmp_path):
    content, _, _, own = content_of(layout)
    loaded = load(tmp_path, content, **heads_of(layout))
    assert loaded.which == default
    assert torch.equal(loaded.state["pos_embed"], own["pos_embed"])
    second = load(tmp_path, content, which=other, **heads_of(layout))
    assert not torch.equal(second.state["pos_embed"], own["pos_embed"])
    assert second.weights_sha256 != loaded.weights_sha256
    assert second.checkpoint_sha256 == loaded.checkpoint_sha256


def test_a_bare_teacher_is_no_student(tmp_path):
    with pytest.raises(UserError, match="no student network"):
        load(tmp_path, content_of("DINO, backbone")[0], heads=HEADS, which="student")


class TestHeads:
    def test_the_metadata_knows(self, tmp_path):
        loaded = load(tmp_path, content_of("ours")[0])
        assert (loaded.arch["heads"], loaded.heads_from) == (HEADS, "metadata")

    def test_a_contradiction_names_both(self, tmp_path):
        with pytest.raises(UserError, match=r"3 heads.*--heads says 4"):
            load(tmp_path, content_of("ours")[0], heads=4)

    def test_an_unpublished_size_asks(self, tmp_path):
        with pytest.raises(UserError, match="--heads N"):
            load(tmp_path, content_of("DINO, backbone")[0])

    def test_heads_that_do_not_divide_the_width(self, tmp_path):
        with pytest.raises(UserError, match="5 heads"):
            load(tmp_path, content_of("DINO, backbone")[0], heads=5)

    @pytest.mark.parametrize(
        ("wrap", "heads"),
        [
            (lambda state: state, 6),
            (lambda state: {"model": state}, 6),
            (lambda state: {"state_dict": under("module.base_encoder.", state)}, 12),
            (lambda state: {"epoch": 300, "arch": "vit_small", "state_dict": state}, 12),
        ],
    )
    def test_the_table_knows_that_moco_v3_has_twelve(self, wrap, heads, tmp_path):
        with torch.device("meta"):
            shapes = VisionTransformer("small", img_size=32).state_dict()
        state = {name: torch.full(tensor.shape, 0.01) for name, tensor in shapes.items()}
        loaded = load(tmp_path, wrap(state))
        assert (loaded.arch["heads"], loaded.heads_from, loaded.arch["name"]) == (heads, "arch table", "vit-s16")


def test_our_metadata_goes_along(tmp_path):
    loaded = load(tmp_path, content_of("ours")[0])
    assert (loaded.method, loaded.epoch, loaded.seed) == ("DINO+SelfPatch", 7, 3)
    assert (loaded.config, loaded.train_data) == ({"lr": 0.1}, "toy")
    assert load(tmp_path, content_of("SelfPatch")[0], heads=HEADS).epoch == 200


def test_metadata_that_contradicts_the_tensors_is_refused(tmp_path):
    content = content_of("ours")[0]
    content["meta"]["arch"] = {**content["meta"]["arch"], "depth": 12}
    with pytest.raises(UserError, match="depth 12 but the tensors 2"):
        load(tmp_path, content)


def test_half_precision_weights_are_read_as_float32(tmp_path):
    content = {name: tensor.half() for name, tensor in network().items()}
    assert {t.dtype for t in load(tmp_path, content, heads=HEADS).state.values()} == {torch.float32}


def test_weights_that_are_not_finite_are_refused(tmp_path):
    content = content_of("DINO, backbone")[0]
    content["blocks.1.mlp.fc1.weight"] = torch.full_like(content["blocks.1.mlp.fc1.weight"], float("nan"))
    with pytest.raises(UserError, match="not finite"):
        load(tmp_path, content, heads=HEADS)


@pytest.mark.parametrize("shape", [(0, 0, 0), (1, 0, 64), (1, 1, 0)])
def test_an_empty_table_of_positions_is_refused(shape, tmp_path):
    content = content_of("DINO, backbone")[0]
    content["pos_embed"] = torch.zeros(shape)
    with pytest.raises(UserError):
        load(tmp_path, content, heads=HEADS)


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "module.base_encoder."])
def test_a_resnet_is_refused(prefix, tmp_path):
    names = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.1.conv2.weight", "fc.weight")
    with pytest.raises(UserError, match="ResNet, not a ViT or a Swin"):
        load(tmp_path, {"state_dict": {prefix + name: torch.randn(4, 4) for name in names}})


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.randn(3)], torch.randn(3), {"some.weight": torch.randn(3)}])
def test_what_is_no_network_is_refused(content, tmp_path):
    with pytest.raises(UserError):
        load(tmp_path, content)


class TestCheckInTheModelThatTrains:
    @pytest.fixture
    def loaded(self, tmp_path):
        return load(tmp_path, content_of("DINO, backbone")[0], heads=HEADS)

    @pytest.fixture
    def model(self, loaded):
        model = VisionTransformer(
            embed_dim=DIM, depth=DEPTH, heads=HEADS, patch_size=8, img_size=32, drop_path_rate=0.3
        )
        model.load_state_dict(loaded.state)
        return model.train()

    def test_the_same_weights_pass_inside_another_module(self, loaded, model):
        loaded.check(torch.nn.Sequential(model, torch.nn.Linear(3, 3)))
        assert model.training

    def test_weights_initialised_again_are_caught(self, loaded, model):
        model.init_weights()
        with pytest.raises(UserError, match=r"blocks\.0\.attn\.proj"):
            loaded.check(model)

    def test_one_changed_number_is_caught(self, loaded, model):
        with torch.no_grad():
            model.blocks[1].mlp.fc2.bias[0] += 1e-3
        with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc2\.bias"):
            loaded.check(model)

    def test_another_number_of_heads_is_caught(self, loaded, model):
        for block in model.blocks:
            block.attn.heads = 4
        with pytest.raises(UserError, match="3 heads"):
            loaded.check(model)

    def test_a_lacking_part_is_caught(self, loaded, model):
        model.norm = torch.nn.Identity()
        with pytest.raises(UserError, match=r"norm\.weight"):
            loaded.check(model)


@pytest.mark.parametrize("family", ["dino", "selfpatch"])
@pytest.mark.parametrize("full", [True, False])
def test_golden_tokens(family, full, tmp_path):
    """The published ViTs' weights, in their checkpoints' layout, give the recorded tokens."""
    files = golden_files(f"vit_{family}*.npz")
    if not files:
        pytest.skip(f"no golden files in {MORE}")
    for file in files:
        values = np.load(file)
        own = {
            name.removeprefix("weights/"): torch.from_numpy(values[name])
            for name in values
            if name.startswith("weights/")
        }
        build = {"dino": dino_full, "selfpatch": selfpatch_full}[family]
        loaded = load(tmp_path, build(own, own)[0] if full else own, heads=3)
        assert loaded.family == (family if full else {"dino": "vit-plain"}.get(family, f"{family}-backbone"))
        sizes = [name.removeprefix("image/") for name in values if name.startswith("image/")]
        assert sizes
        for size in sizes:
            image = torch.from_numpy(values[f"image/{size}"]).float()
            taps = sorted(int(n.rpartition("block")[2]) for n in values if n.startswith(f"tokens/{size}/"))
            with torch.no_grad():
                tokens, _ = loaded.model.tokens_of(image, taps)
            for tap, found in zip(taps, tokens, strict=True):
                np.testing.assert_allclose(found.numpy(), values[f"tokens/{size}/block{tap}"], atol=1e-4, rtol=0)


def supervised_swin(own, other):
    return {"model": own | classifier(width=192)}, ("model",), ""


@pytest.mark.parametrize("layout", [moby, supervised_swin])
def test_golden_swin(layout, tmp_path):
    """MoBY's Swin, in MoBY's and in the supervised layout, gives the recorded feature and stage inputs."""
    files = golden_files("swin_moby*.npz")
    if not files:
        pytest.skip(f"no golden files in {MORE}")
    for file in files:
        values = np.load(file)
        own = {n.removeprefix("weights/"): torch.from_numpy(values[n]) for n in values if n.startswith("weights/")}
        loaded = load(tmp_path, layout(own, own)[0])
        image = torch.from_numpy(values["image"])
        with torch.no_grad():
            pooled = loaded.model(image)[0]
            stages = loaded.model.stages(image)
        np.testing.assert_allclose(pooled.numpy(), values["pooled"], atol=1e-4, rtol=0)
        for i, stage in enumerate(stages[:-1]):  # a stage's input is the merged output of the one before it
            merged = loaded.model.layers[i].downsample(stage).flatten(1, 2).detach().numpy()
            np.testing.assert_allclose(merged[:, ::7], values[f"stage_input/{i + 1}"], atol=1e-4, rtol=0)
