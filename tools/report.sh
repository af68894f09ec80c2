#!/usr/bin/env bash
# Turn the records of evaluations into comparison tables, plots and a page; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command report "$@"
