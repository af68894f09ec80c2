"""mmcv's operators, mmdet and mmseg where a command needs them: the second stage of the set-up."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from types import ModuleType

from selfpatch.pretrain.cli import UserError

PACKAGES = ("mmcv", "mmdet", "mmseg", "faster_coco_eval")
SETUP = "SELFPATCH_SETUP"  # environment: tools/setup.sh of the checkout whose entry point started this process


def import_dense(name: str) -> ModuleType:
    """The module ``name``, which may import mmdet or mmseg; in a checkout, they are installed now if they are missing.

    Raises:
        UserError: they are missing, and this process was not started by a checkout's tools.
    """
    try:
        return _import_quietly(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in PACKAGES:
            raise
    if SETUP not in os.environ:
        raise UserError(
            f"this needs {missing}, which is not installed: run tools/setup.sh --dense in the checkout, or "
            "pip install 'selfpatch[dense]' where mmcv's operators can be compiled"
        )
    if status := subprocess.run([os.environ[SETUP], "--quiet", "--dense"], check=False).returncode:
        sys.exit(status)  # it has told why
    importlib.invalidate_caches()
    return _import_quietly(name)


def _import_quietly(name: str) -> ModuleType:
    """Import without mmdet's and mmseg's notes that a data service of no concern here is missing."""
    with redirect_stdout(io.StringIO()):
        return importlib.import_module(name)
