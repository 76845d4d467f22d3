#!/usr/bin/env bash
# Run the whole pipeline on generated data, from an empty clone to a scored sub.csv and a report, with the same
# commands as for the real data set. Sets up .venv first. Run again, it skips finished steps;
# remove data/demo to start over.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash

DATA_DIR=data/demo
source scripts/common.bash
base=$DATA_DIR/cache/video

if [ ! -f "$DATA_DIR/truth.csv" ]; then  # written last
    rm -rf "$DATA_DIR"
    "$PYTHON" -m yt8m.make_demo_data --data-dir "$DATA_DIR" --seed 1
fi
"$PYTHON" -m yt8m.prepare_vocabulary --data-dir "$DATA_DIR"

train_once video/dbof 11 yt8m.train_video scripts/demo/video_gated_dbof.yaml --name dbof
train_once video/nextvlad 12 yt8m.train_video scripts/demo/video_nextvlad.yaml --name nextvlad

train_once segment/dbof_0 21 \
    yt8m.train_pure_segment scripts/demo/pure_segment.yaml "$base/dbof" --fold 0 --name dbof
train_once segment/nextvlad_1 22 \
    yt8m.train_pure_segment scripts/demo/pure_segment.yaml "$base/nextvlad" --fold 1 --name nextvlad

train_once segment/dbof-nextvlad_2 31 \
    yt8m.train_segment_w_context scripts/demo/segment_with_context.yaml "$base/dbof" "$base/nextvlad" \
    --fold 2 --name dbof-nextvlad
train_once segment/dbof-dbof_3 32 \
    yt8m.train_segment_w_context scripts/demo/segment_with_context.yaml "$base/dbof" "$base/dbof" \
    --fold 3 --name dbof-dbof

"$PYTHON" -m yt8m.prepare_test_meta --data-dir "$DATA_DIR"
"$PYTHON" -m yt8m.inference_memmap --data-dir "$DATA_DIR"
"$PYTHON" -m yt8m.create_submission_from_memmaps --data-dir "$DATA_DIR" --output "$DATA_DIR/sub.csv"
"$PYTHON" -m yt8m.check_submission "$DATA_DIR/sub.csv" --data-dir "$DATA_DIR"

echo
"$PYTHON" -m yt8m.evaluate --data-dir "$DATA_DIR" --truth "$DATA_DIR/truth.csv" --video-labels "$DATA_DIR/test_labels.csv" \
    --submission "$DATA_DIR/sub.csv" --model-names dbof_0 nextvlad_1 dbof-nextvlad_2 dbof-dbof_3
echo
"$PYTHON" -m yt8m.report --data-dir "$DATA_DIR" --truth "$DATA_DIR/truth.csv" --title "yt8m: the demo"
