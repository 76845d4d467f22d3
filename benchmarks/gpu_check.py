"""Check that a device agrees with the CPU: small models of both families, one batch, in float32."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from helperbot import move_to
from torch import Tensor

from benchmarks.gpu_data import BASES, KINDS, OFFSET, SIZES
from yt8m.common.errors import UserError
from yt8m.data.datasets import VideoBatch
from yt8m.data.packed_frames import PackedFrames
from yt8m.data.vocabulary import challenge_vocabulary
from yt8m.models.classifiers import SegmentModel, VideoModel
from yt8m.models.layers import begin_centered
from yt8m.prediction.inference import Computation, Member, Predictor
from yt8m.training.losses import VideoTask

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3  # relative to the norm of the CPU's
SMALL_GRADIENT = 1e-3  # of the largest norm: smaller ones are compared with that
PREDICTION_TOLERANCE = 5  # of 9,999
LENGTHS, VIDEOS = (40, 40, 33, 40, 25, 40, 12, 40), (73, 60, 91)  # frames
CPU = torch.device("cpu")


def step_results(model: VideoModel, batch: VideoBatch, device: torch.device) -> dict[str, Tensor]:
    """The loss of a training step on a device, and the gradient of each parameter, by name; on the CPU."""
    model, batch, task = copy.deepcopy(model).to(device).train(), move_to(batch, device), VideoTask()
    loss = task.criterion(task.forward(model, batch), batch)
    loss.backward()
    return {"loss": loss.detach().cpu()} | {name: own.grad.cpu() for name, own in model.named_parameters()}


def predictions(models: Sequence[SegmentModel], videos: Sequence[Tensor], device: torch.device) -> list[np.ndarray]:
    """Predictions of each model on a device, (S, C) of 9,999."""
    members = [Member(str(number), copy.deepcopy(model).to(device), OFFSET) for number, model in enumerate(models)]
    predictor = Predictor(members, Computation(device))
    return [values.cpu().numpy() for values in predictor(videos, range(len(members)))]


def _require(what: str, difference: float, tolerance: float) -> float:
    if not difference <= tolerance:  # NaN is unequal, too
        raise UserError(f"{what}: differs from the CPU's by {difference:.1e}, more than {tolerance:.0e}")
    return difference


def check_equal(device: torch.device) -> str:
    """Compare training steps and predictions with the CPU's; returns a summary line.

    Raises `UserError` naming what differs.
    """
    size = SIZES["tiny"]
    generator = torch.Generator().manual_seed(7)
    random = partial(torch.randint, 0, 256, dtype=torch.uint8, generator=generator)
    frames = random((len(LENGTHS), max(LENGTHS), sum(size.widths.values())))
    labels = torch.rand(len(LENGTHS), len(challenge_vocabulary()), generator=generator) < 0.003
    batch = VideoBatch(labels, PackedFrames.pack(frames, torch.tensor(LENGTHS)), np.arange(len(LENGTHS)))
    without_dropout = replace(size, changed={**size.changed, "p_drop": 0.0})
    bases = {name: without_dropout.video_model(name)[1] for name in BASES}
    losses, gradients = [], []
    for name, base in bases.items():
        begin_centered(model := copy.deepcopy(base))  # in training mode
        found, expected = (step_results(model, batch, where) for where in (device, CPU))
        differences = {key: float((found[key] - value).norm()) for key, value in expected.items()}
        norms = {key: float(value.norm()) for key, value in expected.items()}
        losses.append(_require(f"{name}, loss", differences.pop("loss") / norms.pop("loss"), LOSS_TOLERANCE))
        least = SMALL_GRADIENT * max(norms.values())
        for key, difference in differences.items():
            relative = difference / max(norms[key], least)
            gradients.append(_require(f"{name}, gradient of {key}", relative, GRADIENT_TOLERANCE))
    models = [size.segment_model([bases[name] for name in kind], CPU) for kind in KINDS]
    videos = [random((length, frames.shape[2])) for length in VIDEOS]
    furthest = []
    for kind, *values in zip(KINDS, *(predictions(models, videos, where) for where in (device, CPU))):
        furthest.append(int(np.abs(np.subtract(*values)).max()))
        _require(f"{'-'.join(kind)}, predictions of 9,999", furthest[-1], PREDICTION_TOLERANCE)
    return (
        f"Small models in float32 agree with the CPU: losses to {max(losses):.0e}, gradients to "
        f"{max(gradients):.0e}, predictions to {max(furthest)} of 9,999."
    )
