#!/usr/bin/env bash
# Make the virtual environment .venv and install this project into it; quick where that was done before.
#   scripts/setup.sh EXTRAS      e.g. fairseq  or  fairseq,hub,test
# PYTHON chooses the interpreter, VENV the folder, TORCH the version of torch.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=$1
venv=${VENV:-.venv}
python=${PYTHON:-python3}
torch=${TORCH:-2.13.0}

wanted="$extras $torch $(cksum <pyproject.toml)"
if grep -qxF "$wanted" "$venv/installed" 2>/dev/null; then # without network, too
    exit 0
fi
echo "== installing into $venv (once)"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    "${pip[@]}" torch=="$torch" # first and by version: unpinned, other packages would pull in whatever build is newest
fi
"${pip[@]}" -e ".[$extras]"
# pip compiles on one core; files for other Pythons do not compile, which is no matter
"$venv/bin/python" -m compileall -qq -j 0 "$venv"/lib/python*/site-packages || true
kept=$(grep -F " ${wanted#* }" "$venv/installed" 2>/dev/null || true) # other extras of this pyproject.toml
printf '%s\n' ${kept:+"$kept"} "$wanted" >"$venv/installed"
