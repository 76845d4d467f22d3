#!/usr/bin/env bash
# Lint and test both packages; the tests include a small run of all commands. Sets up .venv first.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash dev
source scripts/common.bash

bash scripts/browser.bash
bash scripts/lint.bash
# Two test files at a time, each with one thread: starting commands takes most of their time.
OMP_NUM_THREADS=1 "$PYTHON" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
