"""History files and TensorBoard curves."""

import csv
import logging
import subprocess
import sys

import pytest
import torch
from helperbot import Bot, Callback, HistoryFile, TensorBoardLog
from helperbot_mean import Mean
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

QUIET = logging.getLogger("helperbot-test-quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


class Killed(Exception):
    """Ends a run in these tests."""


class Die(Callback):
    """Ends the run at a step; the first callback, so the others do not see that step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, bot):
        if bot.step == self.step:
            raise Killed


def make_bot(callbacks, state_file=None, valid=True):
    """A small Bot which logs every 2 steps."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    batches = [torch.randn(4, 2) for _ in range(3)]
    return Bot(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05),
        forward=lambda model, batch: model(batch),
        criterion=lambda outputs, batch: outputs.square().mean(),
        train_batches=batches,
        valid_batches=batches if valid else None,
        metrics=[Mean("size", lambda outputs, batch: outputs.abs().squeeze(1))],
        callbacks=callbacks,
        logger=QUIET,
        log_interval=2,
        state_file=state_file,
        save_every=4,
    )


def rows_of(path):
    """The header and the rows of a file."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames, list(reader)


def test_a_log_line_and_an_evaluation_of_a_step_share_a_row(tmp_path):
    path = tmp_path / "deep" / "history.csv"
    bot = make_bot([HistoryFile(str(path))])
    bot.train(7, 3)
    columns, rows = rows_of(path)
    assert columns == ["step", "loss", "lr", "examples_per_second", "train_loss", "valid_loss"] + ["size"]
    assert [row["step"] for row in rows] == ["2", "3", "4", "6", "7"]
    logged = [row["step"] for row in rows if row["loss"]]
    evaluated = [row["step"] for row in rows if row["valid_loss"]]
    assert (logged, evaluated) == (["2", "4", "6"], ["3", "6", "7"])
    assert all(row["lr"] == "0.05" for row in rows)
    for row in rows:
        for kind in (("loss", "examples_per_second"), ("train_loss", "valid_loss", "size")):
            assert len({row[name] == "" for name in kind}) == 1
    both = rows[3]
    assert float(both["loss"]) == bot.log[2]["loss"]
    assert float(both["examples_per_second"]) > 0
    assert float(both["train_loss"]) == bot.history[1]["train_loss"]
    assert float(both["valid_loss"]) == bot.history[1]["results"]["loss"]
    assert float(both["size"]) == bot.history[1]["results"]["size"]
    assert [entry.name for entry in path.parent.iterdir()] == ["history.csv"]


def test_the_file_is_there_after_each_evaluation(tmp_path):
    path = tmp_path / "history.csv"
    bot = make_bot([HistoryFile(path), Die(5)])
    with pytest.raises(Killed):
        bot.train(7, 3)
    assert [row["step"] for row in rows_of(path)[1]] == ["2", "3"]


def test_without_evaluations_it_is_written_at_the_end(tmp_path):
    path = tmp_path / "history.csv"
    make_bot([HistoryFile(path)], valid=False).train(5, 3)
    columns, rows = rows_of(path)
    assert columns == ["step", "loss", "lr", "examples_per_second", "train_loss"]
    assert [row["step"] for row in rows] == ["2", "4"]


def test_without_evaluations_it_is_there_once_the_state_is_saved(tmp_path):
    path = tmp_path / "history.csv"
    bot = make_bot([HistoryFile(path), Die(7)], tmp_path / "state.pt", valid=False)
    with pytest.raises(Killed):
        bot.train(9, 9)
    # That of step 4 was written between steps 4 and 7.
    assert [row["step"] for row in rows_of(path)[1]] in (["2", "4"], ["2", "4", "6"])


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    bot = make_bot([HistoryFile(path)])
    bot.train(3, 3)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    with pytest.raises(OSError, match="no space"):
        make_bot([HistoryFile(path)]).train(3, 3)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["history.csv"]


def test_a_resumed_run_goes_on_with_its_file(tmp_path):
    tables = []
    for name, step in (("all", None), ("killed", 7)):
        path, state_file = tmp_path / f"{name}.csv", tmp_path / f"{name}.pt"
        bot = make_bot([Die(step), HistoryFile(path)], state_file)
        try:
            bot.train(9, 4)
        except Killed:
            bot = make_bot([Die(None), HistoryFile(path)], state_file)
            assert bot.resume() and bot.step == 4
            bot.train(9, 4)
        columns, rows = rows_of(path)
        for row in rows:
            row.pop("examples_per_second")  # varies
        tables.append((columns, rows))
    assert tables[0] == tables[1]
    assert [row["step"] for row in tables[0][1]] == ["2", "4", "6", "8", "9"]


def scalars_of(folder):
    """The steps and values of each name in TensorBoard."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def test_tensorboard_shows_log_lines_and_evaluations(tmp_path):
    bot = make_bot([TensorBoardLog(tmp_path)])
    bot.train(7, 3)
    scalars = scalars_of(tmp_path)
    assert set(scalars) == {"train/loss", "train/lr", "train/examples_per_second", "valid/loss", "valid/size"}
    logged = [(entry["step"], pytest.approx(entry["loss"])) for entry in bot.log]
    assert scalars["train/loss"] == logged
    assert [step for step, _ in scalars["train/lr"]] == [2, 4, 6]
    for name in ("loss", "size"):
        assert scalars[f"valid/{name}"] == [
            (entry["step"], pytest.approx(entry["results"][name])) for entry in bot.history
        ]


def test_tensorboard_hides_what_a_resumed_run_does_again(tmp_path):
    curves = []
    for name, step in (("all", None), ("killed", 7)):
        folder, state_file = tmp_path / name, tmp_path / f"{name}.pt"
        bot = make_bot([Die(step), TensorBoardLog(folder)], state_file)
        try:
            bot.train(9, 4)
        except Killed:
            assert [step for step, _ in scalars_of(folder)["train/loss"]] == [2, 4, 6]
            bot = make_bot([Die(None), TensorBoardLog(folder)], state_file)
            assert bot.resume()
            bot.train(9, 4)
        scalars = scalars_of(folder)
        scalars.pop("train/examples_per_second")  # varies
        curves.append(scalars)
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[1]["train/loss"]] == [2, 4, 6, 8]
    assert [step for step, _ in curves[1]["valid/loss"]] == [4, 8, 9]


def test_neither_tensorboard_nor_tensorflow_is_imported_without_need(tmp_path):
    code = f"""
import sys, torch, helperbot
def loaded():
    return [name for name in ("tensorboard", "tensorflow") if name in sys.modules]
history = helperbot.HistoryFile({str(tmp_path / "history.csv")!r})
curves = helperbot.TensorBoardLog({str(tmp_path)!r})
print(loaded())
model = torch.nn.Linear(1, 1)
helperbot.Bot(
    model, torch.optim.SGD(model.parameters(), lr=0.1), lambda model, batch: model(batch),
    lambda outputs, batch: outputs.mean(), [torch.ones(2, 1)], callbacks=[curves], log_interval=1,
).train(2, 1)
print(loaded())
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout.splitlines() == ["[]", "['tensorboard']"], ended.stderr
