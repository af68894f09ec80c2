"""The front door: every command is there, teaches, and answers a mistake with one line."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selfpatch.eval import command
from selfpatch.eval.command import COMMANDS, main
from selfpatch.pretrain.cli import UserError

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What the command changes of this process."""
    monkeypatch.setattr(sys, "argv", ["selfpatch"])
    monkeypatch.delenv("SELFPATCH_COMMAND", raising=False)
    monkeypatch.setenv("SELFPATCH_COMMAND", "")  # so that what the command sets is undone
    monkeypatch.delenv("SELFPATCH_COMMAND")


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


def test_help_names_every_command(capsys):
    main([])
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +{does}$", shown, re.MULTILINE) for name, (_, does) in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_teaches_under_its_own_name(name, capsys):
    assert run(name, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: selfpatch {name}")
    assert "tools/" not in shown.partition("\n\n")[2].partition("options:")[0]


def test_a_task_s_help_is_its_own(capsys):
    assert run("eval", "davis", "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: selfpatch eval davis")
    assert "selfpatch eval davis checkpoint.pth" in shown


def test_an_unknown_command_costs_one_line():
    with pytest.raises(UserError, match="unknown command reprot: did you mean report\\?"):
        main(["reprot"])


def test_a_mistake_in_a_command_is_status_2(capsys):
    assert run("convert", "none.pth", "out.pth") == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_every_tool_goes_through_the_front_door():
    called = {path.name: re.findall(r"selfpatch\.eval\.command (\w+)", path.read_text()) for path in TOOLS.glob("*.sh")}
    assert {name for names in called.values() for name in names} <= COMMANDS.keys()
    for name in ("pretrain", "convert", "report", "sweep", "eval_davis", "eval_coco", "prepare_data", "eval_all"):
        assert len(called[f"{name}.sh"]) == 1


def test_python_names_of_the_same_import_nothing_heavy_until_used():
    code = "import sys, selfpatch.eval as e; assert 'torch' not in sys.modules; e.load_backbone, e.evaluate; dir(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", ["davis_tree.OFFICIAL_VAL", "davis_tree.OFFICIAL_FRAMES", "findings.pictures", "findings.sample", "jf.main"]
)
def test_former_names_of_modules_answer(name):
    module, _, attribute = name.partition(".")
    assert hasattr(importlib.import_module(f"selfpatch.eval.{module}"), attribute)


def test_the_console_script_is_this_one():
    text = (TOOLS.parent / "pyproject.toml").read_text()
    assert re.search(rf'^selfpatch = "{command.__name__}:entry"$', text, re.MULTILINE)
