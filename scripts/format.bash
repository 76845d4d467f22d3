#!/usr/bin/env bash
# Format everything and mend what the linter can mend; then scripts/lint.bash has only real complaints left.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash dev
source scripts/common.bash

"$PYTHON" -m ruff check --fix-only --quiet
"$PYTHON" -m ruff format --quiet
