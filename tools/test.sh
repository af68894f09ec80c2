#!/usr/bin/env bash
# Everything that must hold before a change lands: lint, format and the tests. Arguments go to pytest.
DENSE=1 source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest "$@"
