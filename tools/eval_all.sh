#!/usr/bin/env bash
# Score a checkpoint on every benchmark whose data is there, and print the table; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
records=work_dirs/records previous=
for word in "$@"; do
    case "$word" in -h | --help) exec "$PYTHON" -m selfpatch.eval.all --help ;; --records=*) records="${word#*=}" ;; esac
    [ "$previous" = --records ] && records="$word"
    previous="$word"
done
status=0
"$PYTHON" -m selfpatch.eval.all "$@" || status=$?
[ "$status" -le 1 ] || exit "$status" # nothing was scored
echo
"$PYTHON" -m selfpatch.reports.report --records "$records"
exit "$status"
