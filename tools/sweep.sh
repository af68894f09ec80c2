#!/usr/bin/env bash
# Pretrain and evaluate a grid of settings, here or through Slurm; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command sweep "$@"
