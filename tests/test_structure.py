"""The house rules that no reader should have to check by eye."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("pretrain", "eval", "reports")
SOURCES = [path for room in (*ROOMS, "tools") for path in sorted((ROOT / room).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_are_only_imported_under_their_full_name(path):
    """A second import under another name would register every class twice."""
    assert not {name for name in imported(path) if name.split(".")[0] in ROOMS}


@pytest.mark.parametrize(
    ("room", "unknown"),
    [
        ("pretrain", ("selfpatch.eval", "selfpatch.reports", "mmcv", "mmdet", "mmseg")),
        ("eval", ("selfpatch.reports.report",)),
        ("reports", ("selfpatch.eval", "torch", "mmengine", "mmcv", "mmdet", "mmseg")),
    ],
)
def test_a_room_knows_nothing_of_others(room, unknown):
    for path in (ROOT / room).rglob("*.py"):
        for name in imported(path):
            assert not name.startswith(unknown), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_no_file_may_hold(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 410, "split it: a file is read in one sitting"
    for forbidden in (r"strict=False", r"weights_only=False", r"\.cuda\(", r"assert False", r"\bTODO\b"):
        assert not re.search(forbidden, text), forbidden


def test_every_room_is_packaged():
    packages = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)[1]
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    folders.add(Path("configs"))
    assert set(re.findall(r'"(.*?)"', packages)) == {f"selfpatch.{'.'.join(folder.parts)}" for folder in folders}


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.sh")), ids=lambda path: path.name)
def test_every_tool_tells_what_it_does_and_is_valid_bash(path):
    lines = path.read_text().splitlines()
    assert any(line.startswith("# ") for line in lines[:2])
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0


def test_the_readme_names_only_tools_that_exist():
    named = set(re.findall(r"tools/(\w+\.(?:sh|py))", (ROOT / "README.md").read_text()))
    assert named
    assert not {name for name in named if not (ROOT / "tools" / name).is_file()}


def test_a_room_can_be_imported_where_no_gpu_and_no_network_is():
    done = subprocess.run([sys.executable, "-c", "import selfpatch.pretrain.train"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
