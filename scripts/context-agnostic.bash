#!/usr/bin/env bash
# Fine-tune six context-agnostic segment models. Options, such as --device cuda:1, are passed to every run.
# Stops at the first failure; run again, it skips finished models.
set -euo pipefail
source "$(dirname "$0")/common.bash"

base=$DATA_DIR/cache/video
dbof() {
    local fold=$1 seed=$2
    shift 2
    train_once "segment/dbof-3_$fold" "$seed" \
        yt8m.train_pure_segment scripts/pure_segment_dbof.yaml "$base/dbof-3" --fold "$fold" --name dbof-3 "$@"
}
nextvlad() {
    local fold=$1 seed=$2
    shift 2
    train_once "segment/nextvlad-2_$fold" "$seed" \
        yt8m.train_pure_segment scripts/pure_segment_nextvlad.yaml "$base/nextvlad-2" --fold "$fold" --name nextvlad-2 "$@"
}

dbof 0 1213 "$@"
dbof 1 1216 "$@"
dbof 2 1351 "$@"
nextvlad 0 5696 "$@"
nextvlad 1 1696 --steps 12000 "$@"
nextvlad 2 2396 "$@"
