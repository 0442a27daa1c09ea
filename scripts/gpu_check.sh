#!/usr/bin/env bash
# Check speed, half precision, memory, resuming and validation on a CUDA GPU, offline, in 12 minutes at most.
#   scripts/gpu_check.sh [--minutes 12] [--json FILE] [--only PARTS] [--device cpu]
# Writes a JSON line for each figure as it is found, and a page with verdicts; the same command goes on where it ended.
# Exit status: 0 all is well, 1 some checks failed or goals were missed, 3 no GPU at hand.
# Uses .venv if it is there, else the python on PATH, which needs fairseq-cloze's dependencies.
# WHEELS=DIR: first install all wheels of that folder, for a machine without network (docs/benchmarks.md).
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ -x "${VENV:-.venv}/bin/python" ] && python="${VENV:-.venv}/bin/python"
[ -z "${WHEELS:-}" ] || "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
exec env PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "$python" scripts/gpu_check.py "$@"
