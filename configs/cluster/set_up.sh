#!/bin/sh
# The Python environment of a node that crawls: of the lock what a crawl needs, each file held against its hash, and the
# wheel of this checkout. The trainer's packages (5.7 of 7.1 GB, mostly torch) and those of the tests are left out.
#
#   sh set_up.sh DIRECTORY requirements.lock openwit-0.1.0-py3-none-any.whl
set -eu
directory=$1 lock=$2 wheel=$3

${PYTHON:-python3} -m venv "$directory"
awk '
    /^[a-z]/ {
        skip = /^(torch|torchvision|triton|timm|open-clip-torch|tensorboard|nvidia-|cuda-)/ ||
               /^(mypy|pytest|ruff|hypothesis|import-linter|moto|flask)/
    }
    !skip
' "$lock" > "$directory/crawl.lock"
"$directory/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$directory/crawl.lock"
"$directory/bin/python" -m pip install --quiet --no-deps "$wheel"
