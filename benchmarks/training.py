"""Speed of training the video models: this package, the plain way, and the machine's rate of matrix products.

Checks first that both ways give equal logits and gradients, then times whole training steps (forward, loss, backward,
clipping, AdamW) in turn, and finally runs each way in its own process for its peak memory. Times are medians.
"""

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from helperbot import parameter_groups

from benchmarks.harness import rates
from benchmarks.plain_models import build_plain_model
from yt8m.models.classifiers import build_video_model
from yt8m.models.config import load_config
from yt8m.training.losses import video_loss

CONFIGS = {"NeXtVLAD": "video_nextvlad.yaml", "context-gated DBoF": "video_gated_dbof.yaml"}
BATCH, LENGTH, N_CLASSES = 16, 140, 1000
LR, EPS, WEIGHT_DECAY, CLIP = 3e-4, 1e-6, 0.1, 10.0
TOLERANCE, N_CHECKED = 1e-4, 4
MATRIX = 3072  # rows and columns of the product that measures the machine's rate


def build(name: str, plain: bool, **changes: float) -> nn.Module:
    """The model of a published configuration, with `changes`, and with seeded weights, the same for both ways."""
    config = load_config(ROOT / "scripts" / CONFIGS[name]).video
    assert config is not None
    model_config = config.model.model_copy(update=changes)
    torch.manual_seed(1)
    model = build_video_model(model_config, N_CLASSES)
    if not plain:
        return model
    plain_model = build_plain_model(model_config, N_CLASSES)
    plain_model.load_state_dict(model.state_dict())
    return plain_model


def make_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Seeded frames (B, L, 1152) uint8, lengths (B,), all L, and labels (B, C), about 3 per video."""
    generator = torch.Generator().manual_seed(2)
    frames = torch.randint(0, 256, (BATCH, LENGTH, 1152), dtype=torch.uint8, generator=generator)
    return frames, torch.full((BATCH,), LENGTH), torch.rand(BATCH, N_CLASSES, generator=generator) < 3 / N_CLASSES


class Trainer:
    """Training steps of one way on one batch."""

    def __init__(self, name: str, plain: bool, half: bool = False) -> None:
        """`half`: in bfloat16, as with `--amp bf16`."""
        self.half = half
        self.model = build(name, plain)
        groups = parameter_groups(self.model, LR, WEIGHT_DECAY)
        speedups = {"foreach": False, "fused": False} if plain else {"fused": True}
        self.optimizer = torch.optim.AdamW(groups, lr=LR, eps=EPS, **speedups)
        self.frames, self.lengths, self.labels = make_batch()

    def loss(self) -> Tensor:
        """The batch's loss, a scalar."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            return video_loss(self.model(self.frames, self.lengths), self.labels)

    def step(self) -> float:
        """One training step; returns steps per second."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return 1 / (time.perf_counter() - start)

    def flops(self) -> int:
        """Floating-point operations of the matrix products of forward and backward."""
        with FlopCounterMode(display=False) as counter:
            self.loss().backward()
        return counter.get_total_flops()


def difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to that of the expected value."""
    return float((found - expected).norm() / expected.norm())


def check_equal(name: str) -> None:
    """Compare logits in eval mode, and gradients in training mode without dropout; all frames are real.

    Gradients are compared on few videos and in double precision, because rounding that moves a hidden unit across the
    kink of its ReLU changes a gradient by more than the tolerance in either way.
    """
    frames, lengths, labels = make_batch()
    with torch.no_grad():
        logits = [build(name, plain).eval()(frames, lengths) for plain in (False, True)]
    errors = {"logits": difference(*logits)}
    gradients = []
    for plain in (False, True):
        model = build(name, plain, p_drop=0.0).double().train()
        video_loss(model(frames[:N_CHECKED].double(), lengths[:N_CHECKED]), labels[:N_CHECKED]).backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    errors |= {key: difference(gradient, gradients[1][key]) for key, gradient in gradients[0].items()}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < TOLERANCE, f"{name}: {worst} differs by {errors[worst]:.1e}"
    print(f"{name}: logits are equal to {errors.pop('logits'):.0e}, gradients to {max(errors.values()):.0e}")


def matrix_product(matrix: Tensor) -> float:
    """One product of large float32 matrices; returns floating-point operations per second."""
    start = time.perf_counter()
    torch.mm(matrix, matrix)
    return 2 * len(matrix) ** 3 / (time.perf_counter() - start)


def peak_memory(name: str, way: str) -> float:
    """Peak resident memory in MB of a fresh process that takes a few training steps in one way."""
    command = [sys.executable, __file__, "--memory-of", name, way]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def print_peak_memory(name: str, way: str) -> None:
    """The program run by `peak_memory`."""
    trainer = Trainer(name, way == "plain")
    for _ in range(3):  # the optimizer's state exists from the second on
        trainer.step()
    # Not getrusage, whose peak is at least that of the parent process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    print(int(status["VmHWM"].split()[0]) * 1024 / 1e6)


def measure(name: str, repeats: int) -> None:
    """Print the table of one model."""
    ours, plain, half = Trainer(name, False), Trainer(name, True), Trainer(name, False, True)
    matrix = torch.rand(MATRIX, MATRIX)
    flops = ours.flops()  # our first step, followed by the plain way's, so that neither is timed
    plain.step()
    half.step()
    ways = {"ours": ours.step, "plain": plain.step, "half": half.step}
    found = rates({**ways, "matrix product": partial(matrix_product, matrix)}, repeats)
    del ours, plain, half, ways
    memory = {way: peak_memory(name, way) for way in ("ours", "plain")}
    arithmetic = flops / found["matrix product"]
    print(f"\n{name}, {BATCH} videos of {LENGTH} frames, {N_CLASSES} classes{'ours':>14}{'plain':>12}")
    print(
        f"  {'seconds per step':<48}{1 / found['ours']:>12.3f}{1 / found['plain']:>12.3f}"
        f"{found['ours'] / found['plain']:>10.1f} x as fast"
    )
    print(
        f"  {'in bfloat16, as with --amp bf16':<48}{1 / found['half']:>12.3f}{'':>12}"
        f"{found['half'] / found['plain']:>10.1f} x as fast"
    )
    print(
        f"  {'peak memory of the process, MB':<48}{memory['ours']:>12,.0f}{memory['plain']:>12,.0f}"
        f"{memory['ours'] / memory['plain']:>10.0%} of it"
    )
    print(f"  {'matrix products of our step, GFLOP':<48}{flops / 1e9:>12,.0f}")
    print(f"  {'rate of a large float32 product, GFLOP/s':<48}{found['matrix product'] / 1e9:>12,.0f}")
    print(f"  {'share of our step that they take at that rate':<48}{arithmetic * found['ours']:>12.0%}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timings of each way (default: 5)")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print_peak_memory(*args.memory_of)
        return
    for name in CONFIGS:
        print(f"checking that both ways of {name} compute the same ...", file=sys.stderr)
        check_equal(name)
    for name in CONFIGS:
        measure(name, args.repeats)


if __name__ == "__main__":
    main()
