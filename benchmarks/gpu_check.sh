#!/usr/bin/env bash
# Everything that only a GPU can show of the trainer, in one go and under 9 minutes on one H100:
#
#     benchmarks/gpu_check.sh                      # OUT=DIR for the results (gpu_check/), PYTHON=... for the interpreter
#     benchmarks/gpu_check.sh --only b32,resume    # these parts alone; a name that is none lists them
#     SMALL=1 benchmarks/gpu_check.sh              # the same path with tiny sizes, on a CPU if need be
#
# Needs no network and no data: it makes its own shards. What it measures and judges: benchmarks/gpu_check.py. OUT is a
# new directory, or one that it has made before.
set -euo pipefail
python="${PYTHON:-}"
out="${OUT:-gpu_check}"
[[ "$out" == /* ]] || out="$PWD/$out"
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
[[ -n "$python" ]] || { python=.venv/bin/python; [[ -x "$python" ]] || python=python3; }
exec "$python" -m benchmarks.gpu_check --out "$out" ${SMALL:+--small} "$@"
