"""What all tests share: recorded values and real data; where some are absent, their tests are skipped with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from recorded import DATA, MORE, golden_files

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch loads: waiting threads soon leave the core to others
os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order: two runs of one training end in the same weights
os.environ.pop("SELFPATCH_COMMAND", None)  # set by tools/test.sh for its own usage line


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
