#!/usr/bin/env bash
# Find out which protocols rank a good network above an untrained one; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command calibrate "$@"
