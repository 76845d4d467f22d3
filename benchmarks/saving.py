"""How long a save of the state of a run holds the training thread.

    python benchmarks/saving.py

Saves the state of the published DBoF, weights and AdamW's averages, in turn as the trainers do, which continue once it
is copied to memory while a thread writes it, and the plain way, by writing it in the training thread. Checks first that
both files load as the same state. Seconds are medians.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from helperbot.saving import StateSaver
from helperbot.state import STATE_VERSION, save_file

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.harness import add_repeats, rates
from benchmarks.training import Trainer


def main() -> None:
    """Compare the files, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_repeats(parser, 5)
    repeats = parser.parse_args().repeats
    trainer = Trainer("context-gated DBoF", plain=False)
    trainer.step()  # makes AdamW's averages
    state = {"version": STATE_VERSION, "model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    held: list[float] = []

    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder) / "ours.pt", Path(folder) / "plain.pt"
        saver = StateSaver(ours, every=1)

        def save() -> float:
            start = time.perf_counter()
            saver.save(state, 1)
            held.append(time.perf_counter() - start)
            saver.finish()
            return 1 / (time.perf_counter() - start)

        def save_plainly() -> float:
            start = time.perf_counter()
            save_file(state, plain)
            return 1 / (time.perf_counter() - start)

        save()  # the first allocates memory
        save_plainly()
        states = [torch.load(path, map_location="cpu", weights_only=True) for path in (ours, plain)]
        torch.testing.assert_close(*states, rtol=0, atol=0)
        first = held.pop()
        found = rates({"ours": save, "plain": save_plainly}, repeats)
        holding = sorted(held)[len(held) // 2]
        print(f"state of {plain.stat().st_size / 1e6:,.0f} MB")
        print(f"  {'plain way, training thread held, s':<44}{1 / found['plain']:>8.2f}")
        print(f"  {'ours, training thread held, s':<44}{holding:>8.2f}{1 / found['plain'] / holding:>8.1f} x as short")
        print(f"  {'ours, the first time, s':<44}{first:>8.2f}")
        print(f"  {'ours, until it is on the disk, s':<44}{1 / found['ours']:>8.2f}")


if __name__ == "__main__":
    main()
