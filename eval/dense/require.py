"""mmcv's operators, mmdet and mmseg where a command needs them: the second stage of the set-up."""

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
    """The module ``name``, which may import mmdet or mmseg; in a checkout, the set-up's second stage is done first.

    mmdet's and mmseg's notes that a data service of no concern here is missing are not shown.

    Raises:
        UserError: they are missing, and this process was not started by a checkout's tools.
    """
    if SETUP in os.environ and (status := subprocess.run([os.environ[SETUP], "--quiet", "--dense"]).returncode):
        sys.exit(status)  # it has told why
    importlib.invalidate_caches()
    try:
        with redirect_stdout(io.StringIO()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in PACKAGES:
            raise
        raise UserError(
            f"this needs {missing}, which is not installed: run tools/setup.sh --dense in the checkout, or "
            "pip install 'selfpatch[dense]' where mmcv's operators can be compiled"
        ) from None
