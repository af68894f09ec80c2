"""The former name of `selfpatch.eval.datasets.davis`, for scripts that know it."""

from selfpatch.eval.datasets.davis import *  # noqa: F403
