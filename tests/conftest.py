"""Where golden values and real data are; both are absent from a bare clone, and their tests skipped with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch loads: waiting threads soon leave the core to others
os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order: two runs of one training end in the same weights
os.environ.pop("SELFPATCH_COMMAND", None)  # set by tools/test.sh for its own usage line

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("SELFPATCH_GOLDEN", ROOT.parent / "shared" / "golden"))
DATA = Path(os.environ.get("SELFPATCH_DATA", ROOT.parent / "shared" / "data"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``golden_<name>`` runs once for each file ``<name>*.npz`` of the golden folder."""
    for name in metafunc.fixturenames:
        if name.startswith("golden_"):
            files = sorted(GOLDEN.glob(f"{name.removeprefix('golden_')}*.npz"))
            skip = pytest.mark.skip(reason=f"no {name.removeprefix('golden_')}*.npz in {GOLDEN} (SELFPATCH_GOLDEN)")
            parameters = [pytest.param(file, id=file.stem) for file in files] or [pytest.param(None, marks=skip)]
            metafunc.parametrize(name, parameters)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of small real data sets."""
    if not DATA.is_dir():
        pytest.skip(f"no real data in {DATA} (SELFPATCH_DATA)")
    return DATA
