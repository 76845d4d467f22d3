"""Validation loss of a trained base model by its training loss: 1 for one that generalizes, more for one that overfits,
many for one that blows up on single videos.

    python benchmarks/loss_ratio.py data/cache/video/dbof-3

Both losses are of the exported weights in evaluation mode, on equally many videos, drawn from those to train on.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks import plain_training
from yt8m.data.datasets import VideoBatch, VideoDataset
from yt8m.data.index import load_index
from yt8m.data.vocabulary import load_vocabulary
from yt8m.models.artifacts import load_video_model

BATCH_SIZE = 32


def forward(model: Any, batch: VideoBatch) -> Tensor:
    """Logits of a batch, (B, C)."""
    return model(batch.frames, batch.lengths)


def loss_ratio(folder: Path, as_in_2019: bool) -> float:
    """The ratio for a model in the cache of the data folder that it was trained on.

    `as_in_2019`: with padding and drawn frames, see `plain_training`.
    """
    data_dir = folder.parents[2]
    model, vocabulary = load_video_model(folder), load_vocabulary(data_dir)
    max_len = model.config.max_len
    indexes = [load_index(data_dir / part, data_dir / "cache") for part in ("video/train", "video/valid")]
    train_set, valid_set = (
        plain_training.PaddedVideoDataset(index, vocabulary, max_len, 0)
        if as_in_2019
        else VideoDataset(index, vocabulary, max_len, None)
        for index in indexes
    )
    ways = plain_training.forward if as_in_2019 else forward
    drawn = np.sort(np.random.default_rng(0).permutation(len(train_set))[: len(valid_set)])
    train, valid = (
        plain_training.evaluate(model, dataset, [(0, example) for example in examples], BATCH_SIZE, ways)["valid_loss"]
        for dataset, examples in ((train_set, drawn.tolist()), (valid_set, range(len(valid_set))))
    )
    return valid / train


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="MODEL_DIR", help="DIR/cache/video/NAME, with its data in DIR")
    parser.add_argument(
        "--as-in-2019", action="store_true", help="evaluate with padding and drawn frames, as 2019's trainer did"
    )
    args = parser.parse_args()
    print(loss_ratio(args.folder.absolute(), args.as_in_2019))


if __name__ == "__main__":
    main()
