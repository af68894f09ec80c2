"""What all tests share: recorded values and real data; where some are absent, their tests are skipped with a reason."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from recorded import DATA, MORE, golden_files

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch loads: waiting threads soon leave the core to others
os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order: two runs of one training end in the same weights
os.environ.pop("SELFPATCH_COMMAND", None)  # set by tools/test.sh for its own usage line
MARK = f"SELFPATCH_TESTS={os.getpid()}"  # in the environment of every process that tests start, and of its children
os.environ.update([MARK.split("=")])
SECONDS_TO_NOTICE = 8  # that a parent was killed: data workers look every five
SECONDS_TO_END = 60  # for the interpreter, once the tests are done


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is none; torch is asked only if there are such tests."""
    if marked := [item for item in items if item.get_closest_marker("gpu")]:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn; products of float32 are exact to float32 on both."""
    if request.param == "cuda":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``golden_<name>`` runs once for each file ``<name>*.npz`` of the golden folders."""
    for name in metafunc.fixturenames:
        if name.startswith("golden_"):
            files = golden_files(f"{name.removeprefix('golden_')}*.npz")
            skip = pytest.mark.skip(reason=f"no {name.removeprefix('golden_')}*.npz in {MORE} (SELFPATCH_GOLDEN)")
            parameters = [pytest.param(file, id=file.stem) for file in files] or [pytest.param(None, marks=skip)]
            metafunc.parametrize(name, parameters)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of small real data sets."""
    if not DATA.is_dir():
        pytest.skip(f"no real data in {DATA} (SELFPATCH_DATA)")
    return DATA


# --- an end that comes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_at_work() -> Iterator[None]:
    """An error that names the processes and threads that a test file leaves: pytest might wait for them for ever."""
    yield
    limit = time.monotonic() + SECONDS_TO_NOTICE
    while (processes := started_processes()) | (threads := waited_for()) and time.monotonic() < limit:
        time.sleep(0.1)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert not processes | threads, "left at work"


def started_processes() -> dict[int, str]:
    """Living processes that these tests have started, orphans as well, by id: what each one is."""
    found = {process.pid: process.name for process in multiprocessing.active_children()}  # forks keep our environment
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended by now, or is another user's
            if MARK.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return {process: text for process, text in found.items() if "resource_tracker" not in text}  # it ends with us


def waited_for() -> dict[int, str]:
    """Threads that Python waits for before it ends, by id: their names."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    return {thread.ident: thread.name for thread in others if not thread.daemon}


def pytest_unconfigure() -> None:
    """What still keeps Python from ending is shown and ended, so that whoever waits for the suite gets its status."""
    faulthandler.dump_traceback_later(SECONDS_TO_END, exit=True, file=sys.__stderr__)
