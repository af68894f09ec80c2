"""Where recorded values of the published implementations are: in tests/golden, and in a fuller folder if there is one.

What $SELFPATCH_GOLDEN (default: ../shared/golden) holds adds to tests/golden, and goes before it under the same name.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MORE = Path(os.environ.get("SELFPATCH_GOLDEN", ROOT.parent / "shared" / "golden"))
DATA = Path(os.environ.get("SELFPATCH_DATA", ROOT.parent / "shared" / "data"))
FOLDERS = (ROOT / "tests" / "golden", MORE)


def golden(name: str) -> Path:
    """The path of a recorded file or folder; where there is none, the one that it would have."""
    return next((path for folder in reversed(FOLDERS) if (path := folder / name).exists()), MORE / name)


def golden_files(pattern: str) -> list[Path]:
    """The recorded files whose names match, in the order of their names."""
    found = {path.name: path for folder in FOLDERS for path in folder.glob(pattern)}
    return [found[name] for name in sorted(found)]
