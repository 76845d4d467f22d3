"""Classify scikit-learn's images of digits, in a run that can be killed and resumed.

    python digits.py FOLDER

Repeat the command after Ctrl-C or SIGTERM to resume. FOLDER gets the state, the weights of the best evaluation and
history.csv.
"""

import argparse
import functools
import sys
from pathlib import Path

import helperbot
import torch
from sklearn.datasets import load_digits
from torch import nn

BATCH = 32
INTERVAL = 100


def batches() -> tuple[list, list]:
    """Training and validation batches of (images, digits)."""
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, valid = order[:1400], order[1400:]
    # Lists: a resumed run skips the batches it has seen, so the order must be the same in each epoch.
    return [list(zip(x[part].split(BATCH), y[part].split(BATCH))) for part in (train, valid)]


class Accuracy(helperbot.Metric):
    """The fraction of images classified correctly."""

    def __init__(self) -> None:
        super().__init__("accuracy")
        self.right = self.seen = 0

    def reset(self) -> None:
        self.right = self.seen = 0

    def update(self, outputs: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.right += int((outputs.argmax(1) == batch[1]).sum())
        self.seen += len(outputs)

    def compute(self) -> float:
        return self.right / self.seen


def main() -> None:
    """Train, or resume training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    args = parser.parse_args()

    torch.set_num_threads(1)  # more would not help so small a model
    torch.manual_seed(0)
    train_batches, valid_batches = batches()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(helperbot.parameter_groups(model, lr=3e-3, weight_decay=0.1))
    schedule = functools.partial(helperbot.warmup_linear_decay, steps=args.steps, warmup=0.1)
    best = helperbot.BestCheckpoints(args.folder / "best", monitor="accuracy", mode="max")
    bot = helperbot.Bot(
        model,
        optimizer,
        forward=lambda model, batch: model(batch[0]),
        criterion=lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1]),
        train_batches=train_batches,
        valid_batches=valid_batches,
        metrics=[Accuracy()],
        callbacks=[helperbot.LearningRateSchedule(schedule), best, helperbot.HistoryFile(args.folder / "history.csv")],
        state_file=args.folder / "state.pt",
        save_every=100,
    )
    try:
        if bot.resume():
            print(f"resuming after step {bot.step}")
    except helperbot.StateError as error:
        sys.exit(str(error))
    bot.train(args.steps, INTERVAL)
    if bot.signal:
        print(f"repeat the command to resume after step {bot.step}")
        sys.exit(128 + bot.signal)
    print(f"accuracy {best.best.score:.4f} at step {best.best.step}: {best.best.path}")


if __name__ == "__main__":
    main()
