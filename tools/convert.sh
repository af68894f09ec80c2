#!/usr/bin/env bash
# Write any checkpoint's backbone in another layout; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command convert "$@"
