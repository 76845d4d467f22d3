#!/usr/bin/env bash
# Format everything and apply the linter's automatic fixes.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash dev
source scripts/common.bash

"$PYTHON" -m ruff check --fix-only --quiet
"$PYTHON" -m ruff format --quiet
