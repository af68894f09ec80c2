"""Configs as a user changes them: what cannot be meant is refused, with what was wrong and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.config import CONFIGS, load_config
from selfpatch.pretrain.renamed import modern

ON_DINO = f"_base_ = '{CONFIGS}/_base_/dino.py'\n"


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"model.kk": 2}, "unknown config key model.kk: did you mean model.k?"),
        ({"modle.k": 2}, "unknown config key modle: did you mean model?"),
        ({"schedule.epoch": 2}, "did you mean schedule.epochs?"),
        ({"views.local.sizes": 2}, "did you mean views.local.size?"),
        ({"model.backbone.dept": 2}, "did you mean model.backbone.depth?"),
        ({"optimizer.beta": 2}, "did you mean optimizer.betas?"),
        ({"views.lcoal.count": 2}, "views.lcoal has no size: did you mean views.local?"),
        ({"views.lcoal.size": 32}, "views.lcoal has no scale: did you mean views.local?"),
        ({"method": "heads"}, "pretrain/heads.py holds 0 methods, not one"),
        ({"method": "simclr"}, "no pretrain/simclr.py"),
        ({"model.backbone.type": "ResNet"}, "ResNet"),
    ],
    ids=str,
)
def test_unknown_keys_and_names_are_refused_with_the_nearest_known_one(option, told):
    with pytest.raises(UserError, match=re.escape(told)):
        load_config("selfpatch_toy", option)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("data.batch_size", 0, "must be 1 or more"),
        ("data.batch_size", "abc", "expected a whole number"),
        ("data.workers", -1, "must be 0 or more"),
        ("data.root", 3, "expected a name"),
        ("data", 3, "expected several keys"),
        ("schedule.lr", "abc", "expected a number"),
        ("schedule.lr", float("nan"), "must be finite"),
        ("schedule.momentum", 1.5, "must be from 0 to 1"),
        ("checkpoint.interval", 0, "must be 1 or more"),
        ("log_interval", 0, "must be 1 or more"),
        ("views", 3, "expected several keys"),
        ("views.local", [1], "expected several keys"),
        ("views.local.scale", 0.5, "expected 2 numbers in brackets"),
        ("views.local.scale", [0.5, "abc"], "expected 2 numbers in brackets"),
        ("views.local.scale", [0.5, 0.1], "the smaller share comes first"),
        ("views.local.scale", [0.0, 0.1], "must be above 0"),
        ("views.local.interpolation", "lanczos", "choose bicubic or bilinear"),
        ("optimizer.betas", 0.9, "expected 2 numbers in brackets"),
        ("optimizer.betas", [0.9, 1.0], "must be from 0 to below 1"),
        ("optimizer.clip", "abc", "expected a number or None"),
        ("seed", -1, "must be from 0 to 4294967295"),
        ("seed", 2**32, "must be from 0 to 4294967295"),
        ("seed", "abc", "expected a whole number"),
        ("seed", True, "expected a whole number"),
        ("precision", "fp16", "choose fp32 or bf16"),
        ("compile", 3, "expected True or False or a name"),
        ("model", 5, "expected several keys"),
        ("model.k", 2.0, "expected a whole number"),
        ("model.wrap", 1, "expected True or False"),
        ("model.backbone", "vit", "expected several keys"),
        ("model.backbone.drop_path_rate", 1.5, "must be from 0 to below 1"),
        ("model.backbone.depth", 0, "must be 1 or more"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(key, value, told):
    with pytest.raises(UserError, match="^" + re.escape(key)) as error:
        load_config("selfpatch_toy", {key: value})
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule.lr", 1),  # a whole number is a number
        ("views.local.scale", [0.1, 1]),  # and a list is a tuple, as --cfg-options makes them
        ("optimizer.clip", None),
        ("compile", "eager"),
        ("model.neighbourhood", "all"),
        ("model.backbone.embed_dim", None),
        ("views.local.count", 0),
    ],
)
def test_a_value_of_the_same_meaning_is_not(key, value):
    load_config("selfpatch_toy", {key: value})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model.centre_momentum": 0.9}, "model.centre_momentum is now model.center_momentum"),
        ({"model.type": "SelfPatchPretraining"}, "model.type is now method"),
        ({"views.global2.grey": 0.2}, "views.global2.grey is now views.global2.grayscale"),
        ({"views.local.solarise": 0.2}, "views.local.solarise is now views.local.solarize"),
    ],
)
def test_an_older_key_is_refused_with_its_new_name(options, told):
    with pytest.raises(UserError) as error:
        load_config("selfpatch_toy", options)
    assert str(error.value) == told


def test_a_config_of_an_older_checkpoint_is_read_as_todays():
    old = {
        "method": "moby",
        "model": {"type": "MoBYSelfPatchPretraining", "centre_momentum": 0.9, "backbone": {"type": "Swin"}},
        "views": {"view1": {"grey": 0.2, "solarise": 0.0, "size": 64}},
    }
    new = {
        "method": "moby_selfpatch",
        "model": {"center_momentum": 0.9, "backbone": {"type": "Swin"}},
        "views": {"view1": {"grayscale": 0.2, "solarize": 0.0, "size": 64}},
    }
    assert modern(old) == modern(new) == new


def test_a_config_that_does_not_exist_names_the_nearest():
    with pytest.raises(UserError, match="did you mean selfpatch_toy"):
        load_config("selfpatch_toi")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("README.md", "# selfpatch", "cannot be read as a config"),
        ("c.py", "model = dict(", "cannot be read as a config"),
        ("c.py", "raise OSError('no disk')", "cannot be read as a config: no disk"),
        ("c.py", "_base_ = 'nowhere.py'", "cannot be read as a config"),
        ("c.py", "seed = 1", "there is no config key method: it must be given"),
        ("c.py", f"{ON_DINO}schedule = dict(_delete_=True, lr=1.0)", "there is no config key schedule.epochs"),
        ("c.py", f"{ON_DINO}model = dict(_delete_=True)", "there is no config key model.backbone"),
    ],
)
def test_a_file_that_is_no_config_costs_one_line(tmp_path, name, text, told):
    path = Path(tmp_path, name)
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(told)) as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted((CONFIGS / "pretrain").glob("*.py")), ids=lambda path: path.stem)
def test_every_config_reads(path):
    load_config(str(path))
    assert len(path.read_text().splitlines()) <= 30  # a variant is a delta
