"""Speed of training beside another busy program, by how its threads wait for each other.

    python benchmarks/busy_machine.py

trains the demo's small NeXtVLAD on a CPU in separate processes, alone and beside one that keeps a core busy, in turn
with each of several settings of the environment; checks first that the losses are equal. Rates are medians.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from benchmarks.harness import add_repeats, print_rates, rates
from yt8m.cli import SPIN_COUNT

SETTINGS = {
    "torch's default": {},
    "passive waiting": {"OMP_WAIT_POLICY": "PASSIVE"},
    "short spinning": {"GOMP_SPINCOUNT": SPIN_COUNT},
    "one thread fewer": {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1))},
}
CONFIG = ROOT / "scripts" / "demo" / "video_nextvlad.yaml"
BATCH, LENGTH, N_CLASSES, WARM_STEPS = 16, 60, 50, 3


def train(seconds: float) -> None:
    """Train for `seconds`; print the loss of the last warm-up step and the steps per second after it."""
    import torch

    from yt8m.models.classifiers import build_video_model
    from yt8m.models.config import load_config
    from yt8m.training.losses import video_loss

    section = load_config(CONFIG, "video.model").video
    assert section is not None
    torch.manual_seed(1)
    model = build_video_model(section.model, N_CLASSES).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    frames = torch.randint(0, 256, (BATCH, LENGTH, section.model.frame_dim), dtype=torch.uint8)
    labels = torch.rand(BATCH, N_CLASSES) < 0.1

    def step() -> float:
        optimizer.zero_grad()
        loss = video_loss(model(frames), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step() for _ in range(WARM_STEPS)]
    start, n_steps = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        step()
        n_steps += 1
    print(losses[-1], n_steps / (time.perf_counter() - start))


def trained(setting: dict[str, str], seconds: float) -> tuple[float, float]:
    """The loss and the rate of a training process with these environment variables."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--train", str(seconds)]
    done = subprocess.run(command, env={**plain, **setting}, capture_output=True, text=True, check=True)
    loss, rate = map(float, done.stdout.split())
    return loss, rate


@contextmanager
def busy_core() -> Iterator[None]:
    """A context in which another process keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def main(args: argparse.Namespace) -> None:
    """Compare losses, then print rates alone and beside another program."""
    if args.train is not None:
        train(args.train)
        return
    losses = [trained(setting, 0.1)[0] for setting in SETTINGS.values()]
    assert max(losses) - min(losses) < 1e-4, losses
    for title, beside in (("alone", False), ("beside a program that keeps a core busy", True)):

        def rate(setting: dict[str, str], beside: bool = beside) -> float:
            if not beside:
                return trained(setting, args.seconds)[1]
            with busy_core():
                return trained(setting, args.seconds)[1]

        found = rates({name: partial(rate, setting) for name, setting in SETTINGS.items()}, args.repeats)
        print_rates(f"{title}, {len(os.sched_getaffinity(0))} cores", "steps", found, "torch")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_repeats(parser, 5)
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each training (default: 5)")
    parser.add_argument("--train", type=float, metavar="S", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main(build_parser().parse_args())
