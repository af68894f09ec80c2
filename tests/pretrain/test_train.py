"""Training as a user meets it: the command line, its mistakes, its log, and what a kill costs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from selfpatch.pretrain.checkpoint import load_file
from selfpatch.pretrain.cli import UserError, run_command
from selfpatch.pretrain.config import load_config
from selfpatch.pretrain.train import build_method, check_run, main, train


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_to_the_same_bits(photos, command, run, undisturbed, tmp_path, workers):
    """kill -9 in the middle of epoch 2 of 3, then --resume."""
    words = command(photos, tmp_path / "run", f"data.workers={workers}")
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    for line in process.stdout:
        if "Epoch(train) [2][3/6]" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert load_file(tmp_path / "run" / "checkpoint.pth")["meta"]["epoch"] == 1
    resumed = run([*words, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    expected, found = (load_file(folder / "checkpoint.pth") for folder in (undisturbed, tmp_path / "run"))
    assert found["meta"]["epoch"] == 3
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
    for number, state in expected["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(found["optimizer"]["state"][number][name]), torch.as_tensor(value)), name


def test_a_run_goes_on_at_the_next_sample_to_the_same_bits(photos, command, run, undisturbed, tmp_path):
    """kill -9 in epoch 2 of 3, after a checkpoint at its second of six batches."""
    words = command(photos, tmp_path / "run", "checkpoint.iterations=4")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    for line in process.stdout:
        if "Epoch(train) [2][4/6]" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait(timeout=60)
    meta = load_file(tmp_path / "run" / "checkpoint.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 8)
    resumed = run([*words, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    expected, found = (load_file(folder / "checkpoint.pth") for folder in (undisturbed, tmp_path / "run"))
    assert found["meta"]["iter"] == expected["meta"]["iter"]
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name


def test_only_the_last_checkpoint_stays_and_tells_what_it_is(photos, undisturbed):
    assert sorted(path.name for path in undisturbed.glob("*.pth")) == ["checkpoint.pth", "epoch_3.pth"]
    meta = load_file(undisturbed / "checkpoint.pth")["meta"]
    assert meta["method"] == "DINO+SelfPatch"
    arch = {"family": "vit", "dim": 24, "depth": 2, "heads": 3, "patch": 16, "grid": 4, "cls_token": False}
    assert arch.items() <= meta["arch"].items()
    assert (meta["epoch"], meta["seed"], meta["train_data"]) == (3, 0, photos.name)
    assert meta["config"]["model"]["bottleneck_dim"] == 16
    assert {"torch", "mmengine", "selfpatch"} <= set(meta["versions"])


def test_the_log_tells_what_a_run_is_watched_by(undisturbed):
    log = next(undisturbed.glob("*/*.log")).read_text()
    line = next(line for line in log.splitlines() if "Epoch(train) [2][1/6]" in line)
    for name in ("lr", "eta", "loss", "cls", "patch", "weight_decay", "momentum", "images_per_s", "memory_gb"):
        assert f"{name}: " in line
    for name in ("token_spread", "cls_entropy", "cls_groups", "patch_entropy", "patch_groups"):
        assert f"{name}: " in line
    assert "base_lr: 2.5000e-04" in line  # 2e-3 at 32 images, here 4
    assert list(undisturbed.rglob("events.out.tfevents*"))


def test_a_run_is_never_overwritten(photos, command, run, undisturbed):
    again = run(command(photos, undisturbed))
    assert again.returncode == 2
    assert "--resume" in again.stderr
    other = run([*command(photos, undisturbed, "schedule.lr=1.0"), "--resume"])
    assert other.returncode == 2
    assert "another schedule" in other.stderr


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(photos, command, run, tmp_path):
    done = run(command(photos, tmp_path / "run", "schedule.lr=1e30", "optimizer.clip=None"))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "not finite at iteration" in done.stderr
    assert "start anew in another --work-dir" in done.stderr  # --resume would refuse another rate
    for path in (tmp_path / "run").glob("*.pth"):
        assert all(torch.isfinite(value).all() for value in load_file(path)["state_dict"].values())


def test_two_processes_train_like_one(photos, command, run, undisturbed, tmp_path):
    """The same global batches in half shares: the same weights, up to the order of sums."""
    words = command(photos, tmp_path / "run", "data.batch_size=2")
    done = run([*words, "--gpus", "2"])
    assert done.returncode == 0, done.stderr
    expected, found = (load_file(folder / "checkpoint.pth") for folder in (undisturbed, tmp_path / "run"))
    for name in ("cls_center", "patch_center", "student.backbone.blocks.0.mlp.fc1.weight"):
        torch.testing.assert_close(found["state_dict"][name], expected["state_dict"][name], rtol=1e-2, atol=1e-4)


def test_a_compiled_backbone_trains_like_a_plain_one(photos, command, run, undisturbed, tmp_path):
    done = run(command(photos, tmp_path / "run", "compile=eager"))
    assert done.returncode == 0, done.stderr
    expected, found = (load_file(folder / "checkpoint.pth")["state_dict"] for folder in (undisturbed, tmp_path / "run"))
    assert found.keys() == expected.keys()  # no _orig_mod in them
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_an_unknown_compiler_is_named(photos, tiny, tmp_path):
    config = load_config("dino_toy", {**tiny, "compile": "gcc", "data.root": str(photos)})
    with pytest.raises(UserError, match=r"compile='gcc' is no backend of torch.compile: choose True or one of .*eager"):
        check_run(config, tmp_path, False, 1)


def test_bf16_trains_close_to_fp32(photos, command, run, undisturbed, tmp_path, tiny):
    """All that training has changed, in one vector: a drop path of 0 instead of 0.2 would move it by a tenth."""
    done = run(command(photos, tmp_path / "run", "precision=bf16"))
    assert done.returncode == 0, done.stderr
    fresh = build_method(load_config("selfpatch_toy", {**tiny, "model.patch_out_dim": 32})).student.state_dict()
    changes = []
    for folder in (undisturbed, tmp_path / "run"):
        state = load_file(folder / "checkpoint.pth")["state_dict"]
        changes.append(torch.cat([(state[f"student.{name}"] - value).flatten() for name, value in fresh.items()]))
    fp32, bf16 = changes
    assert 1e-3 < (bf16 - fp32).norm() / fp32.norm() < 0.07


def test_an_untrained_network_is_a_checkpoint_of_its_own(tmp_path, capsys, tiny):
    main(
        [
            "selfpatch_toy",
            "--untrained",
            "--work-dir",
            str(tmp_path),
            "--cfg-options",
            *(f"{key}={value}" for key, value in tiny.items()),
        ]
    )
    saved = load_file(tmp_path / "checkpoint.pth")
    assert (saved["meta"]["method"], saved["meta"]["epoch"]) == ("Random", 0)
    assert str(tmp_path / "checkpoint.pth") in capsys.readouterr().out


@pytest.mark.parametrize("make", ["nothing", "empty", "text"])
def test_bad_image_folders_cost_one_line(tmp_path, command, run, make):
    folder = tmp_path / "photos"
    if make != "nothing":
        folder.mkdir()
    if make == "text":
        (folder / "only.jpg").write_text("this is no image")
    done = run([*command(folder, tmp_path / "run"), "--resume"])
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert str(folder) in done.stderr
    assert not list(tmp_path.rglob("*.pth"))


def test_a_warmup_as_long_as_the_run_is_refused(photos, command, run, tmp_path):
    done = run(command(photos, tmp_path / "run", "schedule.warmup_epochs=3"))
    assert done.returncode == 2
    assert "warmup_epochs=3 is not shorter" in done.stderr


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "tools/pretrain.sh CONFIG --resume" in text
    assert "--cfg-options" in text


def test_ctrl_c_says_how_to_go_on(photos, command, tmp_path):
    words = command(photos, tmp_path / "run", "schedule.epochs=500")
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if the tests run in the background
    )
    for line in process.stdout:
        if "Epoch(train)" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command with --resume goes on" in errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cfg-options", "foo"], "--cfg-options foo: expected KEY=VALUE"),
        (["--cfg-options", "views.local.scale=[1,2"], "expected KEY=VALUE, brackets closed"),
        (["--gpus", "0"], "--gpus 0: must be 1 or more"),
        (["--gpus", "-1"], "--gpus -1: must be 1 or more"),
        (["--launcher", "slurm"], "srun did not start this process"),
        (["--launcher", "pytorch"], "torchrun did not start this process"),
        (["--work-dir", "file"], "file is a file; choose another folder"),
        (["--work-dir", "file/below"], "file is a file; choose another folder"),
        (["--untrained", "--work-dir", "file"], "file is a file; choose another folder"),
        (["--cfg-options", "data.batch_size=0"], "data.batch_size=0: must be 1 or more"),
    ],
    ids=" ".join,
)
def test_a_mistake_on_the_command_line_costs_one_line(photos, tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        run_command(main, ["dino_toy", "--data", str(photos), *words])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_folder_makes_odd_is_told_before_training(photos, tiny, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "._00.png").write_bytes(b"what another system left")
    monkeypatch.setattr("selfpatch.pretrain.train.build_loader", lambda *_: sys.exit("far enough"))
    with pytest.raises(SystemExit, match="far enough"):
        train(load_config("dino_toy", {**tiny, "data.root": str(folder)}), tmp_path / "run")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert "1 hidden" in line


def test_a_work_dir_that_cannot_be_written_to_is_named(photos, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # a folder's mode says nothing to root
    config = load_config("dino_toy", {**tiny, "data.root": str(photos)})
    with pytest.raises(UserError, match=f"--work-dir {tmp_path}/run cannot be written; choose another"):
        check_run(config, tmp_path / "run", False, 1)


def test_batch_norms_need_two_images(photos, tiny, tmp_path):
    config = load_config("moby_toy", {"data.batch_size": 1, "data.root": str(photos)})
    with pytest.raises(UserError, match=r"data.batch_size=1: MoBY needs 2 or more"):
        check_run(config, tmp_path, False, 1)
    check_run(config, tmp_path, False, 2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"views.local.size": 8, "model.backbone.patch_size": 16}, "a crop of 8 pixels is smaller than a patch of 16"),
        ({"views.global2.count": 0, "views.local.count": 0}, "1 global and 0 local crops"),
        ({"views.global2.size": 64}, "global crops of 48 and 64 pixels"),
        ({"model.backbone.heads": 5}, "5 heads do not divide a width of 96"),
    ],
)
def test_a_network_that_its_crops_do_not_fit_is_named(options, told):
    with pytest.raises(UserError, match=told):
        build_method(load_config("dino_toy", options))
