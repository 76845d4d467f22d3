#!/usr/bin/env bash
# Pre-train the two base models on video-level labels. Options, such as --device cuda:1, are passed to every run.
# Stops at the first failure; run again, it skips finished models.
set -euo pipefail
source "$(dirname "$0")/common.bash"

train_once video/dbof-3 4827 yt8m.train_video scripts/video_gated_dbof.yaml --name dbof-3 "$@"
train_once video/nextvlad-2 1635 yt8m.train_video scripts/video_nextvlad.yaml --name nextvlad-2 "$@"
