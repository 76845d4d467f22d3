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
# Processes of six files each, two at a time. Not pytest-xdist: it kills a worker that takes more than ten seconds to
# end, as it may with all that was measured to write, and what the worker measured is lost.
printf '%s\0' tests/test_*.py PyTorchHelperBot/tests/test_*.py |
    OMP_NUM_THREADS=1 xargs -0 -n 6 -P 2 "$PYTHON" -m coverage run -m pytest "$@"
"$PYTHON" -m coverage combine --quiet  # warns of a file that was being written when its process was killed
rm -f .coverage.*  # that file
"$PYTHON" -m coverage report
