#!/usr/bin/env bash
# Lint and tests of both packages, with a small run through all commands among them. Sets up .venv first.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash dev
source scripts/common.bash

bash scripts/browser.bash
bash scripts/lint.bash
# Two files of tests at a time, each with one thread: most of their time is that of starting commands.
OMP_NUM_THREADS=1 "$PYTHON" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
