"""Steps of training and prediction do not wait for the device; a compiler sees a step as one graph.

What a step has to know on the CPU comes along with the batch. A tensor on the device `meta` has no values: whatever
would read one, and so wait for a GPU, raises there. On a GPU torch raises for each such read, too.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import torch
from helperbot import Bot, Callback, move_to
from helperbot.callbacks import BotLike
from helperbot.training_step import FiniteGuard, Stepper
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.shards import AUDIO, RGB, index_videos, make_video
from tests.small_models import CONTEXT, DBOF, NEXTVLAD
from yt8m.data.datasets import RatedSegmentDataset, ShardDataset, VideoDataset
from yt8m.data.index import Index
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.classifiers import (
    ContextAgnosticModel,
    ContextAwareModel,
    ContextModelConfig,
    SegmentModel,
    build_video_model,
)
from yt8m.models.config import VideoModelConfig, VideoSection
from yt8m.prediction.inference import Computation, Member, Predictor
from yt8m.training.losses import SegmentTask, Task, VideoTask

DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]
VOCABULARY = Vocabulary(np.array([3, 7, 20, 21]), ("a", "b", "c", "d"))
KINDS = ["dbof", "nextvlad", "agnostic dbof", "agnostic nextvlad", "aware", "aware, context trained"]


@pytest.fixture(name="index", scope="module")
def fixture_index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Rated videos of different lengths."""
    ratings = ((10, 7, 1.0), (30, 20, 0.0), (35, 3, 1.0))
    videos = [make_video(number, 44 + 9 * number, (3, 7 * (number % 2)), ratings) for number in range(6)]
    return index_videos(tmp_path_factory.mktemp("data"), [videos[:3], videos[3:]])


def base(family: str) -> VideoModelConfig:
    """A small model of the features of the index."""
    model = {**(DBOF if "dbof" in family else NEXTVLAD), "groups": 2, "video_dim": RGB, "audio_dim": AUDIO}
    if "dbof" in family:
        del model["groups"]
    return VideoSection.model_validate({"model": model}).model


def segment_model(kind: str) -> SegmentModel:
    """Of one of the kinds."""
    if "agnostic" in kind:
        return ContextAgnosticModel(build_video_model(base(kind), len(VOCABULARY)))
    config = ContextModelConfig.model_validate({**CONTEXT, "finetune_context": "trained" in kind})
    return ContextAwareModel(config, base("dbof"), base("nextvlad"), len(VOCABULARY))


def experiment(kind: str, index: Index, pinned: bool = False) -> tuple[nn.Module, Task[Any], Any]:
    """A model, its task and a batch of videos of different lengths."""
    dataset: ShardDataset[Any]
    if kind in ("dbof", "nextvlad"):
        dataset, model = VideoDataset(index, VOCABULARY, 20, 1), build_video_model(base(kind), len(VOCABULARY))
        task: Task[Any] = VideoTask()
    else:
        dataset = RatedSegmentDataset(index, VOCABULARY, np.arange(2), 3, "aware" in kind, 20, 1)
        model, task = segment_model(kind), SegmentTask(0.5, 0.5)
    if pinned:
        dataset.pin_memory()
    return model, task, dataset.__getitems__([(0, example) for example in range(len(dataset))])


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Where a read of a GPU raises; one of `meta` always does."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_training_steps(kind: str, accumulate: int, name: str, index: Index) -> None:
    device = torch.device(name)
    model, task, batch = experiment(kind, index, device.type == "cuda")
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=device.type == "cuda")
    amp = None if device.type == "meta" else torch.float16
    stepper = Stepper(
        model, optimizer, task.forward, task.criterion, device, 10.0, amp, accumulate, lambda own, n: own.split(n, 2)
    )
    guard = FiniteGuard(immediate=False)
    stepper.step(batch, 1, guard)  # the first makes the optimizer's state
    with no_waiting(device):
        for number in (2, 3):
            stepper.step(batch, number, guard)


class Operations(TorchDispatchMode):
    """Counts torch's operations by name, without those that only look at a tensor in another way."""

    VIEWS = ("as_strided", "detach", "view.dtype")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        self.counts[name] += not name.startswith(self.VIEWS)
        return func(*args, **(kwargs or {}))


class Noting(Callback):
    """Notes the operations so far after each step."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.after: list[Counter[str]] = []

    def on_step_end(self, bot: BotLike) -> None:
        """Note them."""
        self.after.append(Counter(self.operations.counts))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_adds_two_operations_to_a_step(kind: str, index: Index) -> None:
    """It copies the memory that all of the batch lies in, and adds the loss to a sum; each is a kernel more."""
    device = torch.device("meta")
    model, task, batch = experiment(kind, index)
    model, optimizer = model.to(device).train(), torch.optim.SGD(model.parameters(), lr=0.1)
    settings: Any = {"clip_grad_norm": 10.0, "device": device}
    stepper = Stepper(model, optimizer, task.forward, task.criterion, **settings)
    moved, guard = move_to(batch, device), FiniteGuard(immediate=False)
    stepper.step(moved, 1, guard)
    with Operations() as alone:
        stepper.step(moved, 2, guard)
    with Operations() as operations:
        noting = Noting(operations)
        bot = Bot(
            model,
            optimizer,
            task.forward,
            task.criterion,
            repeat(batch),
            callbacks=[noting],
            progress=False,
            **settings,
        )
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):  # the last step is checked
            bot.train(4, ckpt_interval=4)
    step = noting.after[2] - noting.after[1]
    assert step - alone.counts == {"_to_copy.default": 1, "add.Tensor": 1}


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kinds", [KINDS[2:4], KINDS[4:5]], ids=["agnostic", "aware"])
def test_prediction(kinds: list[str], name: str) -> None:
    device = torch.device(name)
    models = [segment_model(kind).to(device).eval() for kind in kinds]
    members = [Member(kind, model, 3) for kind, model in zip(kinds, models)]
    predictor = Predictor(members, Computation(device, shifts=(-1, 1)))
    videos = [torch.zeros(length, RGB + AUDIO, dtype=torch.uint8) for length in (50, 71, 44)]
    if device.type == "cuda":
        videos = [video.pin_memory() for video in videos]
    with no_waiting(device):
        results = predictor(videos, range(len(members)))
    assert [values.shape for values in results] == [(10, 4)] * len(members)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiler_sees_a_step_as_one_graph(kind: str, index: Index) -> None:
    """For batches of any lengths; its gradients are those without a compiler."""
    torch.compiler.reset()
    torch.manual_seed(1)
    model, task, batch = experiment(kind, index)
    for module in model.train().modules():
        for name in ("p", "p_drop"):
            if hasattr(module, name):
                setattr(module, name, 0.0)
    plain = copy.deepcopy(model)

    def loss_of(trained: nn.Module, part: Any) -> torch.Tensor:
        return task.criterion(task.forward(trained, part), part)

    compiled = torch.compile(loss_of, fullgraph=True, backend="eager")
    for part in (batch, batch.split(2, 2)[0]):
        for function, trained in ((compiled, model), (loss_of, plain)):
            function(trained, part).backward()
    for own, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-4, atol=1e-5)


def test_reading_a_value_of_the_device_is_noticed() -> None:
    """What the tests above rest on."""
    model = nn.Linear(3, 1).to("meta")

    def forward(trained: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return trained(batch[: int(batch.sum())])

    stepper = Stepper(
        model, torch.optim.SGD(model.parameters()), forward, lambda out, _: out.mean(), torch.device("meta")
    )
    with pytest.raises(RuntimeError, match="meta"):
        stepper.step(torch.ones(2, 3), 1, FiniteGuard(immediate=False))
