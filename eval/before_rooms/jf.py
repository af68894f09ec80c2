"""The former name of `selfpatch.eval.measures.jf`, for scripts that know it, as a command too."""

from selfpatch.eval.measures.jf import *  # noqa: F403
from selfpatch.eval.measures.jf import main
from selfpatch.pretrain.cli import run_command

if __name__ == "__main__":
    run_command(main)
