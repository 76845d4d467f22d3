"""Callbacks, with a stand-in for the Bot where only a few of its attributes matter."""

import math
from types import SimpleNamespace

import pytest
import torch
from helperbot import BestCheckpoints, EarlyStopping, LearningRateSchedule, MovingAverage
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

NAN = math.nan


def stub_bot(model: nn.Module, step: int) -> SimpleNamespace:
    """The part of a Bot that BestCheckpoints uses."""
    return SimpleNamespace(model=model, step=step, state_file=None)


def feed(callback, scores):
    """Show the scores to a BestCheckpoints, one per 10 steps; the weight tells the step."""
    model = nn.Linear(1, 1, bias=False)
    for number, score in enumerate(scores, start=1):
        nn.init.constant_(model.weight, 10 * number)
        bot = stub_bot(model=model, step=10 * number)
        callback.on_eval_end(bot, {"score": score, "loss": 0.0})
    return model


def steps_on_disk(folder):
    """The steps of all files."""
    names = [path.name for path in folder.iterdir()]
    return sorted(int(name.removeprefix("step_").removesuffix(".pt")) for name in names)


@pytest.mark.parametrize(
    "mode, scores, kept",
    [
        ("max", [0.1, 0.5, 0.3, NAN, 0.5, 0.5, 0.4], 20),
        ("min", [0.1, 0.5, 0.3, NAN, 0.1, 0.1], 10),
        ("max", [0.2, 0.2, 0.1], 10),
        ("min", [5.0, 4.0, 3.0, 2.0], 40),
        ("max", [NAN, -math.inf, NAN], 20),
    ],
)
def test_best_checkpoints_keeps_the_best_file(tmp_path, mode, scores, kept):
    folder = tmp_path / "deep" / "folder"
    best = BestCheckpoints(folder, "score", mode)
    feed(best, scores)
    assert steps_on_disk(folder) == [kept]
    score, step, path = best.best
    assert (score, step) == (scores[kept // 10 - 1], kept)
    assert torch.load(path, weights_only=True)["weight"].item() == kept


def test_files_on_disk_are_right_after_every_evaluation(tmp_path):
    best = BestCheckpoints(tmp_path, "score", "max")
    model = nn.Linear(1, 1)
    for number, (score, step) in enumerate(zip([1.0, 3.0, 2.0, 1.0, 4.0], [10, 20, 20, 20, 50]), start=1):
        best.on_eval_end(stub_bot(model=model, step=10 * number), {"score": score})
        assert steps_on_disk(tmp_path) == [step]


@given(
    scores=st.lists(st.sampled_from([NAN, -1.0, 0.0, 1.0, 2.0, math.inf]), max_size=12),
    mode=st.sampled_from(["min", "max"]),
)
@settings(deadline=None)
def test_the_kept_checkpoint_is_the_first_of_the_best(tmp_path_factory, scores, mode):
    folder = tmp_path_factory.mktemp("best")
    best = BestCheckpoints(folder, "score", mode)
    feed(best, scores)
    numbers = [number for number, score in enumerate(scores, start=1) if not math.isnan(score)]
    choose = min if mode == "min" else max  # the first of equals
    expected = [10 * choose(numbers, key=lambda number: scores[number - 1])] if numbers else []
    assert steps_on_disk(folder) == expected
    assert not expected or best.best.step == expected[0]


def test_load_best_restores_the_exact_weights_and_buffers(tmp_path):
    best = BestCheckpoints(tmp_path, "score", "max")
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model(torch.randn(5, 3))
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    best.on_eval_end(stub_bot(model=model, step=1), {"score": 1.0})
    model(torch.randn(5, 3))
    nn.init.zeros_(model[0].weight)
    best.on_eval_end(stub_bot(model=model, step=2), {"score": 0.0})
    best.load_best(model)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_nothing_saved_is_a_clear_error(tmp_path):
    best = BestCheckpoints(tmp_path, "score", "max")
    feed(best, [NAN])
    with pytest.raises(LookupError, match="no checkpoint in .*'score'"):
        _ = best.best
    with pytest.raises(LookupError, match="no checkpoint in "):
        best.load_best(nn.Linear(1, 1))


def test_failed_save_leaves_the_kept_files_and_nothing_else(tmp_path, monkeypatch):
    best = BestCheckpoints(tmp_path, "score", "max")
    feed(best, [1.0])

    def fail(_, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        best.on_eval_end(stub_bot(model=nn.Linear(1, 1), step=20), {"score": 2.0})
    assert steps_on_disk(tmp_path) == [10]
    assert best.best.step == 10


def test_checkpoints_of_two_bots_do_not_mix(tmp_path):
    best = BestCheckpoints(tmp_path, "score", "max")
    feed(best, [1.0])
    with pytest.raises(ValueError, match="one instance per Bot"):
        feed(best, [2.0])


@pytest.mark.parametrize(
    "make", [lambda monitor: BestCheckpoints("unused", monitor), lambda monitor: EarlyStopping(monitor, "min", 1)]
)
def test_missing_monitor_lists_the_names_there_are(make):
    with pytest.raises(ValueError, match="'accuracy'; the results are gap, loss"):
        make("accuracy").on_eval_end(SimpleNamespace(step=1), {"loss": 1.0, "gap": 0.5})


def stopping_evaluation(callback, scores):
    """The evaluation (from 1) after which the callback stops, or None."""
    reasons = []
    bot = SimpleNamespace(stop=reasons.append, in_log=lambda results: results)
    for number, score in enumerate(scores, start=1):
        callback.on_eval_end(bot, {"score": score})
        if reasons:
            assert "score has not improved" in reasons[0]
            return number
    return None


@pytest.mark.parametrize(
    "mode, patience, scores, stops",
    [
        ("min", 2, [3, 2, 2, 1, 1, 1], 6),
        ("min", 2, [3, 2, 2, 1, 1, 0], None),
        ("max", 1, [1, 2, 2], 3),
        ("max", 1, [1, 1.75, 2.5], None),
        ("max", 2, [1, math.inf, math.inf, math.inf], 4),
        ("min", 2, [NAN, NAN], 2),
        ("min", 2, [NAN, 1, NAN, 0, NAN, NAN], 6),
    ],
)
def test_early_stopping(mode, patience, scores, stops):
    assert stopping_evaluation(EarlyStopping("score", mode, patience), scores) == stops


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping("loss", "least", 1),
        lambda: EarlyStopping("loss", "min", 0),
        lambda: BestCheckpoints("unused", "loss", "most"),
        lambda: MovingAverage(0),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_moving_average_is_over_the_last_steps_and_stays_in_tensors():
    average = MovingAverage(window=3)
    assert math.isnan(average.loss())
    for loss in [1.0, 2.0, 3.0, 7.0]:
        average.on_step_end(SimpleNamespace(last_loss=torch.tensor(loss)))
    assert average.loss() == 4.0
    # Tensors on the meta device have no values: on_step_end would fail if it read one.
    lazy = MovingAverage()
    lazy.on_step_end(SimpleNamespace(last_loss=torch.ones((), device="meta")))


@pytest.mark.parametrize("factor", [-1.0, NAN, math.inf])
def test_bad_factor_is_refused(factor):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
    with pytest.raises(ValueError, match="factor at step 3"):
        LearningRateSchedule(lambda step: factor).on_step_start(SimpleNamespace(optimizer=optimizer, step=3))
