# Functions shared by the chained scripts; sourced, not run.
#
#   DATA_DIR   the data folder (default: data)
#   PYTHON     the interpreter (default: .venv/bin/python if there is one, else python)
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
DATA_DIR=${DATA_DIR:-data}
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi

# train_once FOLDER SEED MODULE ARGUMENT...: train unless FOLDER, below $DATA_DIR/cache, has a finished model.
train_once() {
    local folder=$DATA_DIR/cache/$1 seed=$2
    shift 2
    if [ -f "$folder/model.pth" ]; then
        echo "$folder: finished, skipped"
        return
    fi
    echo "$folder: python -m $* --seed $seed"
    "$PYTHON" -m "$@" --seed "$seed" --data-dir "$DATA_DIR"
    [ -f "$folder/model.pth" ] || { echo "$folder: the command ended without exporting a model" >&2; return 1; }
}
