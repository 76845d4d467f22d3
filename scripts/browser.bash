#!/usr/bin/env bash
# Provide a Chromium for the tests of the report: the one named by CHROMIUM, or installed; else install the system's
# package, for root on Debian, or playwright's.
set -euo pipefail
source "$(dirname "$0")/common.bash"

[ -z "${CHROMIUM:-}" ] || exit 0
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    ! command -v "$name" >/dev/null || exit 0
done
if [ "$(id -u)" = 0 ] && grep -qs '^ID=debian' /etc/os-release; then
    echo "browser: installing Debian's chromium" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
else
    echo "browser: installing playwright's chromium" >&2
    "$PYTHON" -m playwright install chromium
fi
