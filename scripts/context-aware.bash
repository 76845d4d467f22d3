#!/usr/bin/env bash
# Fine-tune four context-aware segment models. Options, such as --device cuda:1, are passed to every run.
# Stops at the first failure; run again, it skips finished models.
set -euo pipefail
source "$(dirname "$0")/common.bash"

base=$DATA_DIR/cache/video
aware() {
    local context=$1 segment=$2 fold=$3 seed=$4
    shift 4
    train_once "segment/$context-${segment}_$fold" "$seed" \
        yt8m.train_segment_w_context scripts/segment_with_context.yaml "$base/$context" "$base/$segment" \
        --fold "$fold" --name "$context-$segment" "$@"
}

aware dbof-3 nextvlad-2 3 4055 --steps 12000 "$@"
aware dbof-3 nextvlad-2 4 5055 "$@"
aware nextvlad-2 nextvlad-2 5 5455 "$@"
aware dbof-3 dbof-3 4 3055 "$@"
