"""The former name of `selfpatch.eval.datasets.checks`, for scripts that know it."""

from selfpatch.eval.datasets.checks import *  # noqa: F403
