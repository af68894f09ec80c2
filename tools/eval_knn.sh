#!/usr/bin/env bash
# Score a checkpoint by k-NN classification of frozen features; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command eval knn "$@"
