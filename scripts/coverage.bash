#!/usr/bin/env bash
# The share of the lines of both packages that the tests run, commands in processes of their own included: a table of
# the files that are not run in full, with the lines that are missing. Fails under 95 %. Sets up .venv first.
#
#   bash scripts/coverage.bash [PYTEST ARGUMENT...]
#
# Lines of processes that a test kills, as it does to see a run go on, and lines for CUDA count as not run.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash dev
source scripts/common.bash

bash scripts/browser.bash
"$PYTHON" -m coverage erase
OMP_NUM_THREADS=1 "$PYTHON" -m coverage run -m pytest --numprocesses 2 --dist loadfile "$@"
"$PYTHON" -m coverage combine --quiet
"$PYTHON" -m coverage report
