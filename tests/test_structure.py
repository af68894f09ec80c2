"""The house rules that no reader should have to check by eye."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
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
    for forbidden in (r"strict=False", r"weights_only=False", r"\.cuda\(", r"assert False", r"\bTODO\b"):
        assert not re.search(forbidden, text), forbidden


def test_a_file_is_read_in_one_sitting():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name for name, count in lines.items() if count > 350}


def test_a_function_is_seen_at_once():
    functions = {
        f"{path.relative_to(ROOT)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert not {name for name, lines in functions.items() if lines > 60}


# --- who imports whom ------------------------------------------------------------------------------------------------

MODULES = {
    f"selfpatch.{'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')}": path
    for path in SOURCES
    if path.relative_to(ROOT).parts[0] in ROOMS
}
ARROWS = {  # room: the rooms that its modules may import as they are loaded
    "pretrain": set(),
    "reports": {"pretrain"},  # cli, files, progress: what every command does the same way
    "eval/measures": {"pretrain", "reports"},
    "eval/datasets": {"pretrain", "reports", "eval/measures"},
    "eval/checkpoints": {"pretrain", "reports", "eval/datasets"},
    "eval/dense": {"pretrain", "reports", "eval/checkpoints", "eval/datasets"},
    "eval/tasks": {"pretrain", "reports", "eval/measures", "eval/datasets", "eval/checkpoints", "eval/dense"},
}
ARROWS["eval"] = {*ARROWS["eval/tasks"], "eval/tasks"}
ARROWS["eval/studies"] = {*ARROWS["eval"], "eval"}
ARROWS["eval/before_rooms"] = ARROWS["eval"]


def imported_modules(path: Path, loading: bool = False) -> set[str]:
    """The project's modules that a file imports: anywhere in it, or only while it is loaded."""
    body = ast.parse(path.read_text()).body
    nodes = body if loading else [node for top in body for node in ast.walk(top)]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {node.module}
    return found & MODULES.keys()


def test_no_module_imports_itself_by_a_detour():
    graph = {name: imported_modules(path) for name, path in MODULES.items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_rooms_import_one_way():
    for name, path in MODULES.items():
        room = str(path.relative_to(ROOT).parent)
        for other in imported_modules(path, loading=True):
            there = str(MODULES[other].relative_to(ROOT).parent)
            assert there == room or there in ARROWS[room], f"{name} imports {other}"


def test_eval_holds_rooms_and_at_most_four_modules():
    assert len([path for path in (ROOT / "eval").glob("*.py") if path.name != "__init__.py"]) <= 4


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


def test_the_readme_names_only_tests_that_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "README.md").read_text()))
    defined = {name for path in TESTS for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}
    assert named
    assert not named - defined
