#!/usr/bin/env bash
# Lint and tests of both packages, with a small run through all commands among them. Sets up .venv first.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash requirements-dev.txt

source scripts/common.bash
bash scripts/browser.bash
"$PYTHON" -m pylint --jobs 2 yt8m PyTorchHelperBot/helperbot tests PyTorchHelperBot/tests benchmarks
"$PYTHON" -m pytest "$@"
