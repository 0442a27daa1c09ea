#!/usr/bin/env bash
# Prove fp16 training, resuming and validation on a CUDA GPU, offline, in minutes; prints a table and writes JSON.
#   scripts/gpu_check.sh [--json FILE] [--device cpu --measure tiny]
# Exit status: 0 all checks passed, 1 some failed, 3 no GPU at hand.
# Uses .venv if it is there, else the python on PATH, which needs fairseq-cloze's dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ -x "${VENV:-.venv}/bin/python" ] && python="${VENV:-.venv}/bin/python"
exec env PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "$python" scripts/gpu_check.py "$@"
