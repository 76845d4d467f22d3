#!/usr/bin/env bash
# Make or mend .venv: the pinned requirements (requirements.txt, or the file given) and both packages.
# Does nothing when .venv is as it should be, or when PYTHON names an interpreter that has everything already
# (a conda environment, the Docker image). PYTHON3 chooses the interpreter to make .venv with (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."
[ -z "${PYTHON:-}" ] || exit 0

requirements=${1:-requirements.txt}
stamp=.venv/installed-$requirements
wanted=$(cat requirements.txt "$requirements" pyproject.toml PyTorchHelperBot/pyproject.toml scripts/setup.bash | sha256sum; pwd)
if [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

python=${PYTHON3:-}
for candidate in python3.11 python3 python; do
    [ -n "$python" ] || python=$(command -v "$candidate" || true)
done
if ! "${python:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: Python 3.11 or newer is needed; install it or set PYTHON3 to its path" >&2
    exit 2
fi
echo "setup: installing $requirements into .venv; this takes a minute or more" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e ./PyTorchHelperBot -e .
printf '%s\n' "$wanted" >"$stamp"
