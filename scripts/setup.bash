#!/usr/bin/env bash
# Create or update .venv: the pinned requirements and both packages; with "dev" also the needs of tests and linters.
# Does nothing if .venv is up to date, or PYTHON names an interpreter that has everything (a conda environment).
#
#   bash scripts/setup.bash [dev]
#
#   REQUIREMENTS   requirements.txt or, for a P100 and other old GPUs, requirements-p100.txt, or, for CPUs only,
#                  requirements-cpu.txt (default: as .venv was made, else requirements.txt)
#   PYTHON3        the interpreter for .venv, 3.11 to 3.14
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname)" = Linux ] || { echo "setup: runs only on Linux; use the Docker image, see docs/installation.md" >&2; exit 2; }

case ${1:-} in
    "") tools=() ;;
    dev) tools=(requirements-dev.txt) ;;
    *) echo "setup: $1: expected nothing, or dev" >&2; exit 2 ;;
esac
if [ -n "${PYTHON:-}" ]; then
    if [ "${1:-}" = dev ] && ! "$PYTHON" -c 'import hypothesis, mypy, playwright, pylint, pytest, ruff, xdist' 2>/dev/null; then
        echo "setup: PYTHON=$PYTHON lacks what tests and linters need: $PYTHON -m pip install -r requirements-dev.txt" >&2
        exit 2
    fi
    exit 0
fi
chosen=.venv/requirements  # its name, for later calls
requirements=${REQUIREMENTS:-$(cat "$chosen" 2>/dev/null || echo requirements.txt)}
[ -f "$requirements" ] || { echo "setup: $requirements: no such file; set REQUIREMENTS, or remove $chosen" >&2; exit 2; }

# wanted FILE...: a fingerprint of the requirements and these files, to tell whether .venv is up to date.
wanted() {
    cat requirements-common.txt "$requirements" "$@" pyproject.toml PyTorchHelperBot/pyproject.toml scripts/setup.bash |
        sha256sum
    pwd
}

stamp=.venv/installed-${1:-packages}
if [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted "${tools[@]}")" ]; then
    exit 0
fi

python=${PYTHON3:-}
[ ! -x .venv/bin/python ] || python=.venv/bin/python
for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do
    [ -n "$python" ] || python=$(command -v "$candidate" || true)
done
if ! "${python:-false}" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
    echo "setup: Python 3.11 to 3.14 is needed; install one, or set PYTHON3 to its path, and remove .venv if it has another" >&2
    exit 2
fi
echo "setup: installing $requirements ${tools[*]} into .venv; this takes a minute or more" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
rm -f .venv/installed-*
printf '%s\n' "$requirements" >"$chosen"
files=()
for file in "$requirements" "${tools[@]}"; do
    files+=(-r "$file")
done
.venv/bin/python -m pip install --quiet --disable-pip-version-check "${files[@]}"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e ./PyTorchHelperBot -e .
wanted >.venv/installed-packages
wanted "${tools[@]}" >"$stamp"
