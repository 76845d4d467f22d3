#!/usr/bin/env bash
# Cross-validate: train a segment classifier for each of the 8 folds, then score on every rated segment the model that
# was not trained on it.
#
#   bash scripts/cross-validate.bash NAME TRAINER CONFIG BASE_MODEL_DIR... [OPTION...]
#
#   SEED=1 bash scripts/cross-validate.bash dbof-cv train_pure_segment scripts/pure_segment_dbof.yaml \
#       data/cache/video/dbof-3 --steps 500 --device cuda:1
#   bash scripts/cross-validate.bash mix-cv train_segment_w_context scripts/segment_with_context.yaml \
#       data/cache/video/dbof-3 data/cache/video/nextvlad-2
#
# Options are passed to every run, --device, --on-error, --quiet and --verbose also to the scoring. All folds have the
# same SEED (default: 0). The models NAME_0 to NAME_7 are in cache/segment beside the others, and inference_memmap
# predicts with all of these: choose with its --model-names. Scores go to cache/cross-validation-NAME.
# Stops at the first failure; run again, it resumes, and refuses models made with other settings.
set -euo pipefail

usage() {
    echo "cross-validate: $1" >&2
    echo "usage: bash scripts/cross-validate.bash NAME train_pure_segment CONFIG BASE_MODEL_DIR [OPTION...]" >&2
    echo "       bash scripts/cross-validate.bash NAME train_segment_w_context CONFIG CONTEXT_MODEL_DIR" \
        "SEGMENT_MODEL_DIR [OPTION...]" >&2
    exit 2
}

positional=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do
    positional+=("$1")
    shift
done
[ ${#positional[@]} -ge 4 ] || usage "expected a name, a trainer, a configuration and base models"
name=${positional[0]} trainer=${positional[1]}
case $trainer in
    train_pure_segment) n_bases=1 ;;
    train_segment_w_context) n_bases=2 ;;
    *) usage "$trainer: expected train_pure_segment or train_segment_w_context" ;;
esac
[ ${#positional[@]} -eq $((3 + n_bases)) ] ||
    usage "$trainer: expected $n_bases base model folders, found $((${#positional[@]} - 3))"

scoring=() previous=
for option in "$@"; do
    case $option in
        --name | --name=* | --fold | --fold=*) usage "$option: the script sets name and fold of each run" ;;
        --seed | --seed=*) usage "$option: the seed comes from the environment variable SEED" ;;
        --data-dir | --data-dir=*) usage "$option: the data folder comes from the environment variable DATA_DIR" ;;
        --device=* | --on-error=* | -q | --quiet | -v | --verbose) scoring+=("$option") ;;
    esac
    case $previous in
        --device | --on-error) scoring+=("$previous" "$option") ;;
    esac
    previous=$option
done

source "$(dirname "$0")/common.bash"
for fold in 0 1 2 3 4 5 6 7; do
    "$PYTHON" -m "yt8m.$trainer" "${positional[@]:2}" --fold "$fold" --name "$name" "$@" \
        --seed "${SEED:-0}" --data-dir "$DATA_DIR"
done
"$PYTHON" -m yt8m.evaluate --data-dir "$DATA_DIR" --out-of-fold "$name" \
    --output "$DATA_DIR/cache/cross-validation-$name" "${scoring[@]}"
