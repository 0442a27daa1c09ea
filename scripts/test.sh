#!/usr/bin/env bash
# Set up and run every check: ruff, mypy, import-linter, the test suite.
#   scripts/test.sh              what has to pass before a change lands (under 8 minutes on 2 cores)
#   scripts/test.sh --all        and the slow tests; property tests with new examples
#   scripts/test.sh --coverage   the tests that have to pass, and the lines that none of them runs (takes a third longer)
#   scripts/test.sh --matrix     a short round with other Pythons, other versions of torch, as other users and elsewhere
#   scripts/test.sh TEST...      some tests, with pytest's options
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh fairseq,hub,plot,sheets,test
export PATH="$(realpath "${VENV:-.venv}")/bin:$PATH"
export OMP_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # each of many processes would compile our modules, and each worker all tests
if [ "${1:-}" = --matrix ]; then
    shift
    exec bash scripts/matrix.sh "$@"
fi

ruff check .
ruff format --check .
# Beside the tests, many of which wait for something: without caches these take half a minute.  What they say comes last.
checked=$(mktemp)
(
    set -e
    mypy
    lint-imports --no-logo
) >"$checked" 2>&1 &
checking=$!
select='not slow'
if [ "${1:-}" = --all ]; then
    shift
    select=''
    export HYPOTHESIS_PROFILE=new
fi
python=(python)
if [ "${1:-}" = --coverage ]; then
    shift
    rm -rf work/coverage
    mkdir -p work/coverage
    python=(coverage run)
    trap 'coverage combine --quiet && coverage report' EXIT # of tests that failed, too
fi
# Two more than the cores, for the same reason.
status=0
"${python[@]}" -m pytest -n 4 --dist worksteal --durations 15 -m "$select" "$@" || status=$?
wait "$checking" || status=1
cat "$checked"
rm "$checked"
exit "$status"
