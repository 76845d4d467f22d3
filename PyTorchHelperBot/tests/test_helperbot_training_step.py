"""Gradient accumulation, half precision, compilation and divergence."""

import copy
import logging
import math
import shutil
from datetime import timedelta

import pytest
import torch
from helperbot import Bot, Callback, NonFiniteLossError, resolve_amp
from helperbot.training_step import FiniteGuard, RecentBatches, check_parameters
from torch import nn

QUIET = logging.getLogger("helperbot-test-quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False
CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def regression(batches=8, size=16):
    """Numbered batches of a linear problem in two variables."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(batches):
        x = torch.randn(size, 2, generator=generator)
        y = x @ torch.tensor([[2.0], [-1.0]]) + 0.5
        made.append({"x": x, "y": y, "number": number})
    return made


def small_regression():
    """Batches whose gradients never overflow by themselves at the first loss scale."""
    return [{"x": 0.1 * batch["x"], "y": 0.1 * batch["y"]} for batch in regression()]


def mse(outputs, batch):
    """The criterion of these tests."""
    return nn.functional.mse_loss(outputs, batch["y"])


def split(batch, parts):
    """As `torch.chunk`: the last part may be smaller, and of small batches there are fewer."""
    chunks = zip(batch["x"].chunk(parts), batch["y"].chunk(parts))
    return [{"x": x, "y": y} for x, y in chunks]


class Losses(Callback):
    """Records the loss, the gradients and the weights of every step."""

    def __init__(self):
        self.losses = []
        self.gradients = []
        self.weights = []

    def on_step_end(self, bot):
        self.losses.append(bot.last_loss.item())
        self.gradients.append({name: value.grad for name, value in bot.model.named_parameters()})
        self.weights.append(copy.deepcopy(bot.model.state_dict()))


def network():
    """A small network without dropout, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


def make_bot(model=None, lr=0.1, **arguments):
    """A Bot for the linear problem, without output."""
    model = network() if model is None else model
    arguments.setdefault("train_batches", regression())
    arguments.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=lr))
    arguments.setdefault("criterion", mse)
    return Bot(model, forward=lambda model, batch: model(batch["x"]), logger=QUIET, **arguments)


def assert_close(one, other, **tolerances):
    """State dicts are about equal."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **tolerances)


@pytest.mark.parametrize("size", [12, 7, 2, 1])  # equal parts, unequal ones, fewer ones
@pytest.mark.parametrize("parts", [2, 3])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts, size):
    def run(accumulate):
        losses = Losses()
        bot = make_bot(
            train_batches=regression(3, size),
            accumulate=accumulate,
            split_batch=split,
            callbacks=[losses],
            clip_grad_norm=1.0,
        )
        bot.train(6, 6)
        return losses, bot

    losses, bot = run(1)
    other_losses, other_bot = run(parts)
    assert_close(other_losses.gradients[0], losses.gradients[0])
    assert_close(other_bot.model.state_dict(), bot.model.state_dict())
    assert other_losses.losses == pytest.approx(losses.losses, rel=1e-5)
    assert other_bot.last_grad_norm.item() == pytest.approx(bot.last_grad_norm.item(), rel=1e-4)


def test_the_loss_is_that_of_the_whole_batch_before_anything_is_taken_from_it():
    def forward_of(seen):
        def forward(model, batch):
            seen.append(len(batch["x"]))
            return model(batch["x"])

        return forward

    seen = []
    model = network()
    batch = regression(1, 7)[0]
    expected = mse(model(batch["x"]), batch).item()
    bot = Bot(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        forward_of(seen),
        mse,
        [batch],
        logger=QUIET,
        accumulate=3,
        split_batch=split,
    )
    bot.train(1, 1)
    assert seen == [3, 3, 1]
    assert bot.last_loss.item() == pytest.approx(expected, rel=1e-6)


def test_losses_of_parts_in_half_precision_are_summed_in_full():
    losses = []

    def criterion(outputs, batch):
        losses.append(mse(outputs, batch).bfloat16())
        return losses[-1]

    bot = make_bot(criterion=criterion, accumulate=16, split_batch=split)
    bot.train(1, 1)
    assert bot.last_loss.dtype == torch.float32
    assert bot.last_loss.item() == pytest.approx(torch.stack(losses).float().mean().item(), rel=1e-6)


@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_half_precision_trains_about_as_well(amp, accumulate):
    dtypes = set()

    class Look(Callback):
        """Records the precisions of the loss and the weights."""

        def on_step_end(self, bot):
            dtypes.add((bot.last_loss.dtype, bot.model[0].weight.dtype))

    trained = {}
    for precision in (None, amp):
        bot = make_bot(
            amp=precision,
            accumulate=accumulate,
            split_batch=split,
            valid_batches=regression(2),
            callbacks=[Look()],
            clip_grad_norm=5.0,
        )
        before = bot.evaluate()["loss"]
        trained[precision] = bot.train(60, 60)[-1]["results"]["loss"]
        assert before > 3
    assert dtypes == {(torch.float32, torch.float32)}
    assert trained[None] < 0.5
    assert trained[amp] == pytest.approx(trained[None], abs=0.02)


def test_the_forward_pass_is_in_half_precision_in_training_and_evaluation():
    seen = []

    def criterion(outputs, batch):
        seen.append(outputs.dtype)
        return mse(outputs, batch)

    bot = make_bot(amp=torch.bfloat16, criterion=criterion, valid_batches=regression(1))
    bot.train(1, 1)
    assert seen == [torch.bfloat16] * 2


class Overflow(nn.Module):
    """The identity, with gradients that overflow at some calls."""

    def __init__(self, at):
        super().__init__()
        self.at = at
        self.calls = 0

    def forward(self, x):
        """`x` plus a zero whose gradient is infinite."""
        self.calls += 1
        if not self.at(self.calls):
            return x
        return x + (x - x).abs().sqrt() * 0


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_overflow_skips_the_step(clip):
    losses = Losses()
    model = nn.Sequential(nn.Linear(2, 1), Overflow(lambda call: call == 3))
    bot = make_bot(model, amp=torch.float16, callbacks=[losses], clip_grad_norm=clip, train_batches=small_regression())
    bot.train(5, 5)
    weights = [entry["0.weight"] for entry in losses.weights]
    equal = [torch.equal(one, other) for one, other in zip(weights, weights[1:])]
    assert equal == [False, True, False, False]
    assert all(math.isfinite(loss) for loss in losses.losses)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_model_that_always_overflows_is_an_error(clip):
    model = nn.Sequential(nn.Linear(2, 1), Overflow(lambda call: True))
    bot = make_bot(model, amp=torch.float16, identify=lambda batch: batch["number"], clip_grad_norm=clip)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteLossError, match="overflow at every loss scale") as caught:
        bot.train(100, 100)
    assert caught.value.step == 100  # reading the scale earlier would wait for the device
    assert caught.value.batch == (caught.value.step - 1) % 8
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_the_loss_scale_is_a_part_of_the_state(tmp_path):
    def bot_of(calls):
        model = nn.Sequential(nn.Linear(2, 1), Overflow(calls))
        return make_bot(model, amp=torch.float16, state_file=tmp_path / "state.pt", train_batches=small_regression())

    bot = bot_of(lambda call: call in (2, 3))
    bot.train(5, 5)
    other = bot_of(lambda call: False)
    assert other.resume()
    scaler = bot.state_dict()["scaler"]
    assert scaler["scale"] == 2.0**14  # half of half of 65536
    assert other.state_dict()["scaler"] == scaler


@pytest.mark.parametrize("deferred", [False, True])
def test_the_error_names_the_batch_of_the_bad_step(deferred):
    batches = regression(5)
    batches[3]["y"][2] = math.nan
    bot = make_bot(
        train_batches=batches, identify=lambda batch: f"batch {batch['number']}", log_interval=10, clip_grad_norm=1.0
    )
    if deferred:
        # As on CUDA.
        bot._guard = FiniteGuard(immediate=False)  # pylint: disable=protected-access
    with pytest.raises(NonFiniteLossError, match="training loss .* at step 4") as caught:
        bot.train(20, 20)
    assert (caught.value.step, caught.value.batch) == (4, "batch 3")
    assert bot.step == (10 if deferred else 3)


def test_the_bad_step_may_be_the_first_since_the_check_before():
    batches = regression(8)
    batches[3]["y"][2] = math.nan
    bot = make_bot(train_batches=batches, identify=lambda batch: batch["number"], log_interval=3)
    bot._guard = FiniteGuard(immediate=False)  # pylint: disable=protected-access
    with pytest.raises(NonFiniteLossError) as caught:
        bot.train(20, 20)
    assert (caught.value.step, caught.value.batch, bot.step) == (4, 3, 6)


def test_a_part_that_is_not_finite_is_noticed_before_the_weights_change():
    batches = regression(1, 6)
    batches[0]["y"][0] = math.inf
    bot = make_bot(train_batches=batches, accumulate=3, split_batch=split)
    before = copy.deepcopy(bot.model.state_dict())
    with pytest.raises(NonFiniteLossError, match="training loss is inf at step 1") as caught:
        bot.train(1, 1)
    assert caught.value.batch is None
    assert_close(bot.model.state_dict(), before, rtol=0, atol=0)


def test_recent_batches_forget():
    recent = RecentBatches(str, keep=3)
    for step in range(1, 6):
        recent.remember(step, 10 * step)
    assert [recent.batch(step) for step in range(1, 7)] == [None, None, "30", "40", "50", None]
    nothing = RecentBatches(None, keep=3)
    nothing.remember(1, 10)
    assert nothing.batch(1) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch about itself
@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")),
    reason="torch.compile needs a C++ compiler on a CPU",
)
def test_a_compiled_model_gives_the_same_losses():
    runs = []
    for compiled in (False, True):
        losses = Losses()
        bot = make_bot(compiled=compiled, callbacks=[losses], valid_batches=regression(2))
        history = bot.train(6, 3)
        names = list(bot.model.state_dict())
        runs.append((losses.losses, [entry["results"]["loss"] for entry in history], names))
    assert runs[1][0] == pytest.approx(runs[0][0], abs=1e-4)
    assert runs[1][1] == pytest.approx(runs[0][1], abs=1e-4)
    assert runs[1][2] == runs[0][2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"clip_grad_norm": 0}, "clip_grad_norm must be above 0 or None, got 0"),
        ({"clip_grad_norm": math.nan}, "clip_grad_norm must be above 0 or None, got nan"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"accumulate": 2}, "accumulate needs split_batch"),
        ({"log_interval": 0}, "log_interval must be at least 1, got 0"),
        ({"save_every": 0}, "save_every must be at least 1, got 0"),
        ({"save_every": timedelta(0)}, "save_every must be a time above 0, got 0:00:00"),
    ],
)
def test_arguments_out_of_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_bot(**arguments)


@pytest.mark.parametrize(
    "name, expected", [("auto", None), ("off", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_on_a_cpu(name, expected):
    assert resolve_amp(name, CPU) is expected


@pytest.mark.parametrize(
    "capability, auto, bf16",
    [
        ((6, 0), torch.float16, None),  # P100
        ((7, 5), torch.float16, None),  # T4
        ((8, 0), torch.bfloat16, torch.bfloat16),  # A100
        ((9, 0), torch.bfloat16, torch.bfloat16),  # H100
    ],
)
def test_precision_on_cuda_is_what_the_card_is_good_at(monkeypatch, capability, auto, bf16):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some Card")
    assert resolve_amp("auto", CUDA) is auto
    assert resolve_amp("off", CUDA) is None
    assert resolve_amp("fp16", CUDA) is torch.float16
    if bf16 is not None:
        assert resolve_amp("bf16", CUDA) is bf16
        return
    with pytest.raises(ValueError, match="Some Card has no bfloat16: use fp16 or auto"):
        resolve_amp("bf16", CUDA)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_unknown_precisions_are_refused(device):
    with pytest.raises(ValueError, match="expected one of auto, bf16, fp16, off, got 'half'"):
        resolve_amp("half", device)


def test_immediate_guard_raises_at_once():
    guard = FiniteGuard(immediate=True)
    guard.observe("loss", torch.tensor(1.0), 1)
    with pytest.raises(NonFiniteLossError, match="loss is inf at step 2") as error:
        guard.observe("loss", torch.tensor(float("inf")), 2)
    assert error.value.step == 2


def test_deferred_guard_names_the_first_bad_step_once():
    guard = FiniteGuard(immediate=False)
    for step, value in enumerate([1.0, 2.0, float("nan"), 1.0, float("inf")], start=1):
        guard.observe("loss", torch.tensor(value), step)
        guard.observe("norm", torch.tensor(1.0 if step < 5 else float("nan")), step)
    with pytest.raises(NonFiniteLossError, match="loss is not finite at step 3") as error:
        guard.check()
    assert error.value.step == 3
    guard.check()


def test_parameter_check_names_the_parameter_and_skips_frozen_ones():
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.bias[0] = float("nan")
    with pytest.raises(NonFiniteLossError, match="parameter bias .* after step 7"):
        check_parameters(net.named_parameters(), 7)
    net.bias.requires_grad_(False)
    check_parameters(net.named_parameters(), 7)
    check_parameters([], 7)
