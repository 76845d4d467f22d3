#!/usr/bin/env bash
# Check the code statically: format, linters, types, shell scripts, Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash dev
source scripts/common.bash

"$PYTHON" -m ruff format --check --quiet || { echo "lint: not formatted; run bash scripts/format.bash" >&2; exit 1; }
"$PYTHON" -m ruff check --quiet
"$PYTHON" -m mypy
tools=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
"$tools/shellcheck" scripts/*.bash .ci/run
"$tools/hadolint" Dockerfile
"$PYTHON" -m pylint --jobs 2 yt8m PyTorchHelperBot/helperbot PyTorchHelperBot/examples tests PyTorchHelperBot/tests benchmarks
