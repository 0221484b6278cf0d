#!/bin/sh
# The Python environment of a node that crawls: the packages of data sets, each file held against its hash in the lock,
# and the wheel of this checkout, which brings its kernels compiled. The trainer's packages (5.5 GB) have a lock apart.
#
#   sh set_up.sh DIRECTORY requirements.lock openwit-0.1.0-py3-none-any.whl
set -eu
directory=$1 lock=$2 wheel=$3

${PYTHON:-python3} -m venv "$directory"
"$directory/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$lock"
"$directory/bin/python" -m pip install --quiet --no-deps "$wheel"
