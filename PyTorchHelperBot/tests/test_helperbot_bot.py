"""The training loop."""

import graphlib
import io
import logging
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from helperbot import (
    BestCheckpoints,
    Bot,
    Callback,
    EarlyStopping,
    LearningRateSchedule,
    Metric,
    NonFiniteLossError,
    TooFewExamplesError,
    logging_to,
)
from helperbot.training_step import FiniteGuard
from helperbot_mean import Mean
from helperbot_runs import regression
from torch import nn

README = Path(__file__).resolve().parents[1] / "README.md"
QUIET = logging.getLogger("helperbot-test-quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


def mse(outputs, batch):
    """The criterion of these tests."""
    return nn.functional.mse_loss(outputs, batch["y"])


def make_bot(model=None, lr=0.1, **arguments):
    """A Bot for the linear problem, without output."""
    model = nn.Linear(2, 1) if model is None else model
    arguments.setdefault("train_batches", regression())
    arguments.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=lr))
    arguments.setdefault("logger", QUIET)
    arguments.setdefault("criterion", mse)
    return Bot(model, forward=lambda model, batch: model(batch["x"]), **arguments)


class Recorder(Callback):
    """Records every hook called, with the step."""

    def __init__(self):
        self.calls = []
        self.rates = []
        self.losses = []

    def on_train_start(self, bot):
        self.calls.append(("train_start", bot.step))

    def on_step_start(self, bot):
        self.calls.append(("step_start", bot.step))

    def on_step_end(self, bot):
        self.calls.append(("step_end", bot.step))
        self.rates.append([group["lr"] for group in bot.optimizer.param_groups])
        self.losses.append(bot.last_loss)

    def on_eval_end(self, bot, results):
        self.calls.append(("eval", bot.step))

    def on_train_end(self, bot):
        self.calls.append(("train_end", bot.step))

    def evaluations(self):
        """The steps followed by an evaluation."""
        return [step for name, step in self.calls if name == "eval"]


def test_tiny_regression_learns():
    torch.manual_seed(0)
    bot = make_bot(valid_batches=regression(2))
    before = bot.evaluate()["loss"]
    history = bot.train(200, ckpt_interval=100)
    assert before > 0.1
    assert history[-1]["results"]["loss"] < 1e-6
    assert bot.model.weight.flatten().tolist() == pytest.approx([2, -1], abs=1e-3)


@pytest.mark.parametrize(
    "steps, interval, expected", [(7, 3, [3, 6, 7]), (6, 3, [3, 6]), (2, 5, [2]), (3, 1, [1, 2, 3])]
)
def test_evaluates_every_interval_and_at_the_end_but_never_twice(steps, interval, expected):
    recorder = Recorder()
    bot = make_bot(valid_batches=regression(1), callbacks=[recorder])
    history = bot.train(steps, interval)
    assert recorder.evaluations() == expected
    assert [entry["step"] for entry in history] == expected
    assert bot.history is history


def test_hooks_are_called_in_order():
    recorder = Recorder()
    make_bot(valid_batches=regression(1), callbacks=[recorder]).train(2, 1)
    assert recorder.calls == [
        ("train_start", 0),
        ("step_start", 0),
        ("step_end", 1),
        ("eval", 1),
        ("step_start", 1),
        ("step_end", 2),
        ("eval", 2),
        ("train_end", 2),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_history_has_training_loss_between_evaluations_rate_and_results(dtype):
    recorder = Recorder()
    batches = [{name: value.to(dtype) for name, value in batch.items()} for batch in regression()]
    model = nn.Linear(2, 1, dtype=dtype)
    bot = make_bot(model, 0.05, train_batches=batches, valid_batches=batches[:1], callbacks=[recorder])
    history = bot.train(5, 3)
    losses = [loss.item() for loss in recorder.losses]
    assert [entry["train_loss"] for entry in history] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 2])
    assert [entry["lr"] for entry in history] == [0.05, 0.05]
    assert history[-1]["results"] == bot.evaluate()
    assert not any(loss.requires_grad for loss in recorder.losses)


def test_training_without_validation_runs():
    bot = make_bot()
    assert not bot.train(3, 1)
    assert bot.step == 3
    with pytest.raises(ValueError, match="no valid_batches"):
        bot.evaluate()


def test_rate_of_each_step_is_base_times_factor():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD([{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}])
    recorder = Recorder()
    schedule = LearningRateSchedule(lambda step: 1 / (step + 1))
    bot = make_bot(model, optimizer=optimizer, callbacks=[schedule, recorder])
    bot.train(5, 10)
    expected = [[0.1 / (step + 1), 0.2 / (step + 1)] for step in range(5)]
    assert [rate for pair in recorder.rates for rate in pair] == pytest.approx(sum(expected, []))
    assert bot.lr == pytest.approx(0.2 / 5)


def test_rate_zero_leaves_the_weights():
    bot = make_bot(callbacks=[LearningRateSchedule(lambda step: 0.0)])
    before = bot.model.weight.detach().clone()
    bot.train(3, 3)
    assert torch.equal(bot.model.weight, before)


def test_batches_are_repeated_in_order():
    seen = []

    def criterion(outputs, batch):
        seen.append(batch["x"][0, 0].item())
        return mse(outputs, batch)

    batches = regression(3)
    make_bot(train_batches=batches, criterion=criterion).train(7, 7)
    first = [batch["x"][0, 0].item() for batch in batches]
    assert seen == first + first + first[:1]


def test_endless_batches_are_taken_only_as_needed():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield regression(1)[0]

    bot = make_bot(train_batches=endless())
    bot.train(5, 3)
    assert len(taken) == 5


@pytest.mark.parametrize("batches, steps", [([], 0), (iter([]), 0), (iter(regression(2)), 2)])
def test_exhausted_training_batches_are_an_error(batches, steps):
    bot = make_bot(train_batches=batches)
    with pytest.raises(ValueError, match="train_batches is empty"):
        bot.train(5, 5)
    assert bot.step == steps


@pytest.mark.parametrize("batches", [[], iter([])])
def test_empty_validation_set_is_an_error(batches):
    with pytest.raises(ValueError, match="validation set is empty"):
        make_bot(valid_batches=batches).evaluate()


def test_validation_loss_and_metrics_weigh_examples():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    batches = [{"x": torch.zeros(3, 1), "y": torch.ones(3, 1)}, {"x": torch.zeros(1, 1), "y": torch.full((1, 1), 2.0)}]
    error = Mean("error", lambda outputs, batch: (outputs - batch["y"]).abs()[:, 0])
    bot = make_bot(model, valid_batches=batches, metrics=[error])
    assert bot.evaluate() == {"loss": 1.75, "error": 1.25}
    assert bot.evaluate(batches[:1]) == {"loss": 1.0, "error": 1.0}


def test_batches_without_examples_are_passed_over_unless_there_is_nothing_else():
    empty = {"x": torch.zeros(0, 2), "y": torch.zeros(0, 1)}
    error = Mean("error", lambda outputs, batch: (outputs - batch["y"]).abs()[:, 0])
    bot = make_bot(valid_batches=[empty, *regression(2), empty], metrics=[error])
    assert bot.evaluate() == bot.evaluate(regression(2))
    with pytest.raises(TooFewExamplesError, match="validation set is empty"):
        bot.evaluate([empty])


@pytest.mark.parametrize("least, size", [(1, 0), (2, 1)])
def test_a_step_needs_examples(least, size):
    batches = [*regression(1), {"x": torch.zeros(size, 2), "y": torch.zeros(size, 1)}]
    bot = make_bot(train_batches=batches, least_examples=least)
    with pytest.raises(TooFewExamplesError, match=f"the batch of step 2 has {size} examples; at least {least} needed"):
        bot.train(5, 5)
    assert bot.step == 1


class Extremes(Metric):
    """Gives two values."""

    def __init__(self, names):
        super().__init__("extremes")
        self.names = names
        self.values = []

    def reset(self):
        self.values = []

    def update(self, outputs, batch):
        assert torch.is_inference_mode_enabled()
        self.values += outputs.flatten().tolist()

    def compute(self):
        return dict(zip(self.names, (min(self.values), max(self.values))))


def test_metric_with_several_values():
    bot = make_bot(valid_batches=regression(1), metrics=[Extremes(["least", "greatest"])])
    results = bot.evaluate()
    assert list(results) == ["loss", "least", "greatest"]
    assert results["least"] < results["greatest"]


def test_results_of_the_same_name_are_an_error():
    bot = make_bot(valid_batches=regression(1), metrics=[Extremes(["least", "loss"])])
    with pytest.raises(ValueError, match="two results .* 'loss'"):
        bot.evaluate()


class PartlyFrozen(nn.Module):
    """Keeps a part of itself in evaluation mode, as fine-tuning does."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()).requires_grad_(False)
        self.head = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
        self.modes = []

    def train(self, mode=True):
        """As nn.Module.train, but the frozen part stays in evaluation mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        """x (n, 4) to (n, 1)."""
        self.modes.append((self.frozen[0].training, self.head[0].training))
        return self.head(self.frozen(x))


def test_frozen_part_stays_in_evaluation_mode():
    model = PartlyFrozen()
    bot = make_bot(model, valid_batches=regression(1))
    statistics = model.frozen[0].running_mean.clone()
    bot.train(4, 2)
    assert model.modes == [(False, True)] * 2 + [(False, False)] + [(False, True)] * 2 + [(False, False)]
    assert torch.equal(model.frozen[0].running_mean, statistics)
    assert model.training and model.head.training and not model.frozen.training


def test_evaluate_restores_mixed_modes_even_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Linear(2, 1)))
    model.eval()
    model[1][0].train()
    before = [module.training for module in model.modules()]
    bot = make_bot(model, valid_batches=regression(1))
    bot.evaluate()
    assert [module.training for module in model.modules()] == before
    with pytest.raises(KeyError):
        bot.evaluate([{"y": torch.ones(1, 1)}])
    assert [module.training for module in model.modules()] == before


def failing_batches(bad, value=math.nan):
    """Batches of which the one at index `bad` makes the loss not finite."""
    batches = regression(10)
    batches[bad] = {"x": batches[bad]["x"], "y": torch.full_like(batches[bad]["y"], value)}
    return batches


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_raises_before_the_weights_change(value):
    weights = []

    class Weights(Recorder):
        """Records the weights, too."""

        def on_step_end(self, bot):
            super().on_step_end(bot)
            weights.append(bot.model.weight.detach().clone())

    recorder = Weights()
    bot = make_bot(train_batches=failing_batches(3, value), valid_batches=regression(1), callbacks=[recorder])
    with pytest.raises(NonFiniteLossError, match="step 4") as error:
        bot.train(10, 10)
    assert error.value.step == 4
    assert bot.step == len(weights) == 3
    assert torch.equal(bot.model.weight, weights[-1])
    assert recorder.evaluations() == []


@pytest.mark.parametrize("log_interval, noticed_at", [(2, 4), (100, 5)])
def test_deferred_check_raises_before_the_log_line_or_evaluation(log_interval, noticed_at):
    recorder = Recorder()
    bot = make_bot(
        train_batches=failing_batches(2), valid_batches=regression(1), callbacks=[recorder], log_interval=log_interval
    )
    bot._guard = FiniteGuard(immediate=False)  # what a Bot on CUDA has  # pylint: disable=protected-access
    with pytest.raises(NonFiniteLossError, match="step 3"):
        bot.train(10, 5)
    assert bot.step == noticed_at
    assert recorder.evaluations() == []


def test_deferred_check_precedes_the_evaluation_after_a_stop():
    class Stop(Recorder):
        """Stops at once."""

        def on_step_end(self, bot):
            bot.stop("enough")

    stop = Stop()
    bot = make_bot(train_batches=failing_batches(0), valid_batches=regression(1), callbacks=[stop])
    bot._guard = FiniteGuard(immediate=False)  # pylint: disable=protected-access
    with pytest.raises(NonFiniteLossError, match="the training loss .* step 1"):
        bot.train(10, 5)
    assert stop.evaluations() == []


def infinite_gradient(outputs, batch):
    """A finite loss whose gradient is not: the square root at 0."""
    return (outputs * 0).abs().sum().sqrt() + batch["y"].sum() * 0


def test_gradient_that_is_not_finite_raises_before_the_weights_change_when_clipping():
    bot = make_bot(criterion=infinite_gradient, clip_grad_norm=math.inf)
    before = bot.model.weight.detach().clone()
    with pytest.raises(NonFiniteLossError, match="gradient norm is nan at step 1"):
        bot.train(2, 2)
    assert torch.equal(bot.model.weight, before)


def test_weights_that_are_not_finite_are_not_evaluated():
    recorder = Recorder()
    bot = make_bot(criterion=infinite_gradient, valid_batches=regression(1), callbacks=[recorder])
    with pytest.raises(NonFiniteLossError, match="parameter weight .* step 1"):
        bot.train(2, 1)
    assert recorder.evaluations() == []


def test_clipping_limits_the_step_and_keeps_the_norm_before_it():
    model = nn.Linear(2, 1)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    bot = make_bot(model, lr=1.0, criterion=lambda outputs, batch: mse(outputs, batch) * 1000, clip_grad_norm=0.5)
    bot.train(1, 1)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert bot.last_grad_norm.item() > 10


def test_infinite_limit_measures_without_clipping():
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    second.load_state_dict(first.state_dict())
    make_bot(first).train(3, 3)
    bot = make_bot(second, clip_grad_norm=math.inf)
    bot.train(3, 3)
    assert torch.equal(first.weight, second.weight)
    assert bot.last_grad_norm.item() > 0


@pytest.mark.parametrize(
    "criterion, got",
    [(lambda outputs, batch: (outputs - batch["y"])[:, 0], r"shape \(16,\)"), (lambda outputs, batch: 1.0, "a float")],
)
def test_loss_must_be_a_scalar_tensor(criterion, got):
    bot = make_bot(criterion=criterion, valid_batches=regression(1))
    with pytest.raises(ValueError, match=got):
        bot.train(1, 1)
    with pytest.raises(ValueError, match=got):
        bot.evaluate()


def test_stop_ends_after_the_step_with_one_evaluation():
    class StopAt(Recorder):
        """Stops after step 4."""

        def on_step_end(self, bot):
            super().on_step_end(bot)
            if bot.step == 4:
                bot.stop("enough")

    stop = StopAt()
    bot = make_bot(valid_batches=regression(1), callbacks=[stop])
    bot.train(10, 3)
    assert bot.step == 4
    assert stop.evaluations() == [3, 4]
    assert bot.stop_reason == "enough"
    assert stop.calls[-1] == ("train_end", 4)


def test_early_stopping_and_best_checkpoints_in_a_training(tmp_path):
    # The score is least at the second evaluation.
    scores = iter([3.0, 1.0, 2.0, 2.0, 0.0])
    score = Extremes(["score"])
    score.compute = lambda: {"score": next(scores)}
    best = BestCheckpoints(tmp_path, "score", "min")
    weights = {}

    class Weights(Callback):
        """Records the weights at each evaluation."""

        def on_eval_end(self, bot, results):
            weights[bot.step] = bot.model.weight.detach().clone()

    bot = make_bot(
        valid_batches=regression(1),
        metrics=[score],
        callbacks=[best, EarlyStopping("score", "min", patience=2), Weights()],
    )
    bot.train(50, 2)
    assert bot.step == 8
    assert "score has not improved in 2 evaluations" in bot.stop_reason
    assert best.best == (1.0, 4, tmp_path / "step_00000004.pt")
    assert not torch.equal(bot.model.weight, weights[4])
    best.load_best(bot.model)
    assert torch.equal(bot.model.weight, weights[4])


def test_a_run_is_one_call_of_train():
    bot = make_bot()
    bot.train(2, 2)
    with pytest.raises(RuntimeError, match="has already trained"):
        bot.train(3, 2)
    assert bot.step == 2


@pytest.mark.parametrize("steps, interval", [(0, 1), (-1, 1), (1, 0)])
def test_train_refuses_counts_below_one(steps, interval):
    with pytest.raises(ValueError, match="at least 1"):
        make_bot().train(steps, interval)


@pytest.mark.parametrize("arguments", [{"clip_grad_norm": 0}, {"log_interval": 0}])
def test_bot_refuses_bad_arguments(arguments):
    with pytest.raises(ValueError, match="must be"):
        make_bot(**arguments)


def test_log_file_has_a_line_per_interval_and_per_evaluation(tmp_path, capsys):
    file = tmp_path / "train.log"
    with logging_to("helperbot-test-training", file) as logger:
        recorder = Recorder()
        bot = make_bot(
            valid_batches=regression(1),
            logger=logger,
            log_interval=2,
            callbacks=[recorder],
            metrics=[Extremes(["least", "greatest"])],
        )
        bot.train(5, 5)
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    average = (recorder.losses[2] + recorder.losses[3]).item() / 2
    for line, step in zip(lines, (2, 4)):
        assert re.search(rf"INFO step {step}/5 \| loss [\d.e-]+ \| lr 0\.1 \| [\d.]+ examples/s \| 00:00 left$", line)
    assert float(re.search(r"loss ([\d.e-]+)", lines[1])[1]) == pytest.approx(average, rel=1e-4)
    assert re.search(
        r"INFO evaluation at step 5/5 \| train loss \S+ \| loss \S+ \| least \S+ \| greatest \S+ ", lines[2]
    )
    # Not a terminal: lines only, no progress bar.
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_is_shown_on_a_terminal_only_if_wanted(monkeypatch, progress):
    class Terminal(io.StringIO):
        """Claims to be a terminal."""

        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    make_bot(progress=progress).train(3, 3)
    assert ("0/3" in terminal.getvalue()) is progress


def test_default_logger_leaves_configured_logging_alone():
    logger = logging.getLogger("helperbot")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    try:
        bot = make_bot(logger=None)
        assert bot.logger is logger
        assert logger.handlers == [handler]
    finally:
        logger.removeHandler(handler)


def test_same_seed_gives_the_same_weights():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        bot = make_bot(nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1)))
        bot.train(5, 5)
        weights.append(bot.model[0].weight.detach().clone())
    assert torch.equal(*weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_training_on_cuda_learns_and_checks_the_loss(tmp_path):
    best = BestCheckpoints(tmp_path, "loss", "min")
    bot = make_bot(valid_batches=regression(2), device="cuda", callbacks=[best], clip_grad_norm=10.0)
    bot.train(200, 100)
    assert bot.evaluate()["loss"] < 1e-5
    best.load_best(bot.model)
    assert bot.model.weight.device.type == "cuda"
    bot = make_bot(train_batches=failing_batches(2), device="cuda")
    with pytest.raises(NonFiniteLossError, match="step 3"):
        bot.train(10, 5)
    assert bot.step == 5


def test_readme_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    names = {}
    exec(compile(code, str(README), "exec"), names)  # pylint: disable=exec-used
    printed = capsys.readouterr()
    assert "Checkpoint(score=" in printed.out
    assert "evaluation at step 100/400" in printed.err
    assert names["bot"].evaluate()["loss"] < 0.01


def test_readme_lists_every_public_name():
    package = sys.modules["helperbot"]
    table = README.read_text(encoding="utf-8").split("## Public names")[1]
    assert [name for name in package.__all__ if f"`{name}`" not in table] == []


def test_modules_do_not_import_each_other_in_circles():
    package = Path(sys.modules["helperbot"].__file__).parent
    imports = {
        path.stem: re.findall(r"^ *from helperbot\.(\w+) import", path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in package.glob("*.py")
    }
    assert "callbacks" in imports["bot"]
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError
