#!/usr/bin/env bash
# Train a segmentor on a checkpoint and score it on ADE20K; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command eval ade20k "$@"
