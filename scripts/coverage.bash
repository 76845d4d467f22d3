#!/usr/bin/env bash
# Measure the test coverage of both packages, including commands in their own processes: prints a table of incompletely
# covered files with their missing lines. Fails under 95 %. Sets up .venv first.
#
#   bash scripts/coverage.bash [PYTEST ARGUMENT...]
#
# Lines for CUDA, and lines in processes that tests kill, as in tests of resuming, count as not covered.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash dev
source scripts/common.bash

bash scripts/browser.bash
"$PYTHON" -m coverage erase
# Two processes at a time, of six files each. Not pytest-xdist: it kills a worker that takes more than ten seconds to
# exit, as may happen while it writes its measurements, which are then lost.
printf '%s\0' tests/test_*.py PyTorchHelperBot/tests/test_*.py |
    OMP_NUM_THREADS=1 xargs -0 -n 6 -P 2 "$PYTHON" -m coverage run -m pytest "$@"
"$PYTHON" -m coverage combine --quiet  # warns of a file that was being written when its process was killed
rm -f .coverage.*  # that file
"$PYTHON" -m coverage report
