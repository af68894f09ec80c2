#!/usr/bin/env bash
# Look at a data set, after unpacking what was downloaded: tools/prepare_data.sh imagenet|coco|ade20k|davis [--data DIR]
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command data "$@"
