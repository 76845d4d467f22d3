"""Which rated shards are for training and which for validation."""
import numpy as np

from yt8m.errors import UserError
from yt8m.index import Index

N_FOLDS, FOLD_SEED = 8, 42


def split_fold(index: Index, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `index.shards` to train on and to validate on in one of the 8 folds over sorted shards."""
    from sklearn.model_selection import KFold  # takes as long to import as torch does

    n_shards = len(index.shards)
    if not 0 <= fold < N_FOLDS:
        raise UserError(f"--fold {fold}: folds are numbered 0 to {N_FOLDS - 1}")
    if n_shards < N_FOLDS:
        raise UserError(f"{index.folder}: {n_shards} shards cannot be split into {N_FOLDS} folds; "
                        f"at least {N_FOLDS} are needed")
    return list(KFold(N_FOLDS, shuffle=True, random_state=FOLD_SEED).split(np.arange(n_shards)))[fold]
