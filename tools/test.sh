#!/usr/bin/env bash
# Everything that must hold before a change lands: lint, format and the tests, shared by the cores (at most four).
# Arguments go to pytest, which then runs in one process: tools/test.sh -k sweep
DENSE=1 source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
[ $# -gt 0 ] || set -- -n logical --maxprocesses 4 --dist loadfile # a file's fixtures are made once
exec "$PYTHON" -m pytest "$@"
