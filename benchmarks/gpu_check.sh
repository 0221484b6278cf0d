#!/usr/bin/env bash
# Everything that only a GPU can show of the trainer, in one go and under 9 minutes on one H100:
#
#     benchmarks/gpu_check.sh            # OUT=DIR for the results (gpu_check/), PYTHON=... for the interpreter
#     SMALL=1 benchmarks/gpu_check.sh    # the same path with tiny sizes, on a CPU if need be
#
# Needs no network and no data: it makes its own shards. What it measures: benchmarks/gpu_check.py.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
python="${PYTHON:-}"
[[ -n "$python" ]] || { python=.venv/bin/python; [[ -x "$python" ]] || python=python3; }
exec "$python" -m benchmarks.gpu_check --out "${OUT:-gpu_check}" ${SMALL:+--small} "$@"
