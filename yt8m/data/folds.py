"""Which rated shards are for training and which for validation. Imports nothing heavy: `--help` names the folds."""

from typing import TYPE_CHECKING, Final, Literal

from yt8m.common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from yt8m.data.index import Index

N_FOLDS, FOLD_SEED = 8, 42
NO_FOLD: Final = "none"  # all shards are for training

Fold = int | Literal["none"]


def split_fold(index: "Index", fold: int) -> "tuple[np.ndarray, np.ndarray]":
    """Rows of `index.shards` to train on and to validate on in one of the 8 folds over sorted shards."""
    n_shards = len(index.shards)
    if not 0 <= fold < N_FOLDS:
        raise UserError(f"--fold {fold}: folds are numbered 0 to {N_FOLDS - 1}")
    if n_shards < N_FOLDS:
        raise UserError(
            f"{index.folder}: {n_shards} shards cannot be split into {N_FOLDS} folds; "
            f"at least {N_FOLDS} are needed; training on all of them, --fold {NO_FOLD}, needs no folds"
        )
    return fold_rows(n_shards, fold)


def fold_rows(n_shards: int, fold: int) -> "tuple[np.ndarray, np.ndarray]":
    """Which of so many shards, at least 8, a fold trains on and which it validates on."""
    from sklearn.model_selection import KFold  # takes as long to import as torch does

    return list(KFold(N_FOLDS, shuffle=True, random_state=FOLD_SEED).split(range(n_shards)))[fold]
