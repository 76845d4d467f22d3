"""When states are saved, by a thread, and which of them and of the best checkpoints are kept."""

import errno
import logging
import os
import signal
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helperbot import (
    BestCheckpoints,
    Callback,
    LearningRateSchedule,
    MovingAverage,
    NonFiniteLossError,
    StateError,
    saving,
)
from helperbot.signals import SIGNALS
from helperbot.state import STATE_VERSION, DamagedStateError, StateFiles, save_file
from helperbot_mean import Mean
from helperbot_runs import Die, Killed, flip, load_file, make_bot, regression, same, truncate, writing
from hypothesis import given, settings
from hypothesis import strategies as st


def full_disk(_, file):
    """In the place of `torch.save`."""
    file.write(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("late, ended", [(False, 7), (True, 8)])
def test_a_failed_save_leaves_the_old_states(tmp_path, monkeypatch, late, ended):
    bot = make_bot(tmp_path)
    bot.train(4, 4)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert len(before) == 2
    bot = make_bot(tmp_path)
    assert bot.resume()
    with monkeypatch.context() as patched, writing(late):
        patched.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left on device") as caught:
            bot.train(11, 4)
    assert caught.value.filename == str(tmp_path / "state.pt")
    assert bot.step == ended and bot.saved_step == 4  # found out after the next step, or at the next save
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    bot.save()  # there is space again
    assert bot.saved_step == ended and load_file(tmp_path / "state.previous.pt")["step"] == 4
    again = make_bot(tmp_path, seed=7)
    assert again.resume() and again.step == again.saved_step == ended


@pytest.mark.parametrize("late", [False, True])
def test_a_signal_ends_in_the_error_of_a_save_that_failed(tmp_path, monkeypatch, late):
    bot = make_bot(tmp_path, Die(2, way=signal.SIGTERM))
    monkeypatch.setattr(torch, "save", full_disk)
    with writing(late), pytest.raises(OSError, match="No space left on device"):
        bot.train(11, 4)
    assert bot.saved_step is None and bot.callbacks[-1].ended == 0
    assert not list(tmp_path.iterdir())


class Diverge(Callback):
    """Makes the weights useless after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, bot):
        if bot.step == self.step:
            bot.model[0].weight.data.fill_(torch.nan)


@pytest.mark.parametrize("fails", [False, True])
def test_an_error_waits_for_the_state_and_is_not_hidden_by_its_failure(tmp_path, monkeypatch, caplog, fails):
    logger = logging.getLogger("helperbot-test-told")
    bot = make_bot(tmp_path, logger=logger, callbacks=[Diverge(4)], save_every=3)
    if fails:
        monkeypatch.setattr(torch, "save", full_disk)
    with writing(late=True), pytest.raises(NonFiniteLossError):
        bot.train(11, 100)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if fails:
        (warning,) = warnings
        assert warning.startswith("the last state is not saved: ") and "No space left on device" in warning
        assert str(tmp_path / "state.pt") in warning
        assert bot.saved_step is None and not list(tmp_path.iterdir())
    else:
        assert not warnings and bot.saved_step == load_file(tmp_path / "state.pt")["step"] == 3


def test_a_state_is_that_of_its_step_however_late_it_is_written(tmp_path):
    states = []

    class Note(Callback):
        """Notes the state of step 3, and what is written of it."""

        def on_step_end(self, bot):
            if bot.step == 3:
                save_file(bot.state_dict(), tmp_path / "copy.pt")

        def on_state_saved(self, bot):
            states.append((bot.step, bot.saved_step, load_file(tmp_path / "state.pt")))

    bot = make_bot(tmp_path, callbacks=[LearningRateSchedule(lambda step: 1.0), MovingAverage(5), Note()])
    with writing(late=True):
        bot.train(5, 5)
    assert [(step, saved) for step, saved, _ in states] == [(5, 3), (5, 5), (5, 5)]
    assert same(states[0][2], load_file(tmp_path / "copy.pt"))
    assert not same(states[0][2]["model"], states[1][2]["model"])


class States(Callback):
    """Notes the steps whose states are taken, by a clock that runs a second a step."""

    def __init__(self, patched):
        self.bot = None
        self.taken = []
        patched.setattr(saving, "time", SimpleNamespace(monotonic=lambda: self.bot.step if self.bot else 0))

    def on_train_start(self, bot):
        self.bot = bot

    def state_dict(self):
        self.taken.append(self.bot.step)
        return {}


@pytest.mark.parametrize(
    "late, every, interval, steps",
    [
        (False, timedelta(seconds=3), 100, [3, 6, 9, 11, 11]),
        (True, timedelta(seconds=3), 100, [3, 11, 11]),  # the first is not there before step 11
        (False, timedelta(seconds=2.5), 4, [3, 4, 4, 7, 8, 8, 11, 11]),
        (False, timedelta(seconds=100), 100, [11, 11]),
        (False, timedelta(milliseconds=1), 5, [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 11, 11]),
        (False, 3, 100, [3, 6, 9, 11, 11]),
        (True, 3, 100, [3, 6, 9, 11, 11]),  # waits for the one before
    ],
)
def test_states_are_saved_by_steps_or_by_time_and_around_evaluations(
    tmp_path, monkeypatch, late, every, interval, steps
):
    states = States(monkeypatch)
    bot = make_bot(tmp_path, callbacks=[states], save_every=every)
    with writing(late):
        bot.train(11, interval)
    assert states.taken == steps


def test_a_run_goes_on_while_its_state_is_written(tmp_path):
    seen = []

    class Look(Callback):
        """Notes whether there is a state after each step."""

        def on_step_end(self, bot):
            seen.append((bot.step, (tmp_path / "state.pt").exists()))

    with writing(late=True):
        make_bot(tmp_path, callbacks=[Look()], save_every=3).train(8, 100)
    assert seen == [(step, step > 6) for step in range(1, 9)]  # the save at step 6 waits for that of step 3


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_last_state_is_written_waits_for_it_and_is_not_lost(tmp_path, monkeypatch, number):
    write = StateFiles.write
    written = []

    def signalled(files, *arguments):
        written.append(1)
        if len(written) == 6:  # after the last evaluation
            os.kill(os.getpid(), number)
        write(files, *arguments)

    monkeypatch.setattr(StateFiles, "write", signalled)
    bot = make_bot(tmp_path)
    with writing(late=True):
        bot.train(8, 4)
    assert (len(written), bot.signal, bot.callbacks[-1].ended) == (6, number, 0)
    assert bot.saved_step == load_file(tmp_path / "state.pt")["step"] == 8
    assert not [thread for thread in threading.enumerate() if thread.name == "state writer"]


def steps_of(folder):
    """The steps of the states in a folder, by file."""
    return {path.name: load_file(path)["step"] for path in sorted(folder.glob("*.pt"))}


def test_the_newest_two_states_are_kept(tmp_path):
    bot = make_bot(tmp_path, valid_batches=None, save_every=2)
    bot.train(2, 2)
    assert steps_of(tmp_path) == {"state.pt": 2}
    bot = make_bot(tmp_path, valid_batches=None, save_every=2)
    bot.resume()
    bot.train(9, 100)
    assert steps_of(tmp_path) == {"state.previous.pt": 8, "state.pt": 9}


def test_a_state_file_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "state.pt").symlink_to("disk/kept.pt")
    make_bot(tmp_path, valid_batches=None, save_every=2).train(5, 100)
    assert (tmp_path / "state.pt").is_symlink()
    assert steps_of(tmp_path / "disk") == {"kept.previous.pt": 4, "kept.pt": 5}
    flip(tmp_path / "disk" / "kept.pt")
    bot = make_bot(tmp_path, valid_batches=None)
    assert bot.resume() and bot.step == 4


@pytest.mark.parametrize("damage", [truncate, flip, lambda file: file.write_bytes(b""), Path.unlink])
def test_a_run_goes_back_to_the_older_state_and_says_so_in_one_line(tmp_path, caplog, damage):
    newest, previous = tmp_path / "state.pt", tmp_path / "state.previous.pt"
    arguments = {"valid_batches": None, "save_every": 2}
    make_bot(tmp_path, Die(7, way=signal.SIGTERM), **arguments).train(11, 100)
    assert steps_of(tmp_path) == {"state.previous.pt": 6, "state.pt": 7}
    damage(newest)
    whole = previous.read_bytes()
    bot = make_bot(tmp_path, seed=7, logger=logging.getLogger("helperbot-test-told"), **arguments)
    with caplog.at_level(logging.INFO):
        assert bot.resume() and bot.step == bot.saved_step == 6
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    if damage is Path.unlink:  # killed between the two renames
        assert not found
    else:
        ((level, message),) = found
        assert level == "WARNING" and "\n" not in message
        assert message.startswith(f"{newest}: cannot be read as the state of a run (")
        assert message.endswith("); going back to the one before it, of step 6")
    bot.train(7, 100)  # replaces the damaged one, not the whole one
    assert previous.read_bytes() == whole and steps_of(tmp_path) == {"state.previous.pt": 6, "state.pt": 7}
    assert bot.resume() and bot.step == 7
    bot.train(8, 100)
    assert steps_of(tmp_path) == {"state.previous.pt": 7, "state.pt": 8}


def test_without_a_whole_state_both_are_named_and_left_as_they_are(tmp_path):
    make_bot(tmp_path).train(4, 4)
    newest, previous = tmp_path / "state.pt", tmp_path / "state.previous.pt"
    flip(newest)
    previous.write_bytes(b"garbage")
    before = newest.read_bytes()
    message = r"state.pt: cannot be read as the state of a run \(wrong checksum of .*\), nor can .*/state.previous.pt"
    for _ in range(2):
        with pytest.raises(StateError, match=message):
            make_bot(tmp_path).resume()
    assert (newest.read_bytes(), previous.read_bytes()) == (before, b"garbage")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_is_found_or_changes_nothing(tmp_path_factory, place, bit):
    file = tmp_path_factory.getbasetemp() / "changed.pt"
    content = {"version": STATE_VERSION, "step": 5, "model": {"weight": torch.arange(900.0), "bias": torch.ones(3)}}
    save_file(content, file)
    changed = bytearray(file.read_bytes())
    changed[int(place * len(changed))] ^= 1 << bit
    file.write_bytes(changed)
    try:
        found = StateFiles(file).load().state
    except DamagedStateError:
        return
    assert same(found, content)


def test_states_of_another_run_do_not_stay(tmp_path):
    make_bot(tmp_path).train(4, 4)
    make_bot(tmp_path, valid_batches=None, save_every=2).train(2, 2)  # has not been resumed
    assert steps_of(tmp_path) == {"state.pt": 2}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_whole_state_survives_a_death_at_any_rename(tmp_path, monkeypatch, failing):
    make_bot(tmp_path, valid_batches=None, save_every=2).train(4, 100)
    bot = make_bot(tmp_path, valid_batches=None)
    bot.resume()
    replace, calls = os.replace, []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == failing:
            raise Killed
        replace(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            bot.save()
    again = make_bot(tmp_path, seed=7, valid_batches=None)
    assert again.resume() and again.step == 4
    again.train(5, 100)
    assert steps_of(tmp_path) == {"state.previous.pt": 4, "state.pt": 5}


def test_best_checkpoints_deletes_only_what_no_state_needs(tmp_path):
    folder = tmp_path / "best"
    seen = []

    class Look(Callback):
        """Lists the files; its hooks come after those of BestCheckpoints."""

        def _look(self, what, bot):
            steps = sorted(int(path.stem.removeprefix("step_")) for path in folder.glob("*.pt"))
            seen.append((what, bot.step, steps))

        def on_eval_end(self, bot, results):
            self._look("evaluated", bot)

        def on_state_saved(self, bot):
            self._look("saved", bot)

    scores = iter([3.0, 2.0, 4.0])
    best = BestCheckpoints(folder, "score", "min")

    class Score(Mean):
        """A metric with the scores above."""

        def compute(self):
            return next(scores)

    score = Score("score", lambda outputs, batch: outputs[:, 0])
    bot = make_bot(tmp_path, callbacks=[best, Look()], metrics=[score], save_every=100)
    with writing(late=True):
        bot.train(3, 1)
    assert seen == [
        ("evaluated", 1, [1]),
        ("saved", 1, [1]),  # the state from before the evaluation
        ("saved", 2, [1]),  # that from after it, once step 2 is finished
        ("evaluated", 2, [1, 2]),
        ("saved", 2, [1, 2]),
        ("saved", 3, [1, 2]),  # the first without the file of step 1
        ("evaluated", 3, [1, 2]),
        ("saved", 3, [2]),  # the second
        ("saved", 3, [2]),
    ]


@pytest.mark.parametrize("late", [False, True])
def test_both_states_find_their_best_checkpoint_at_all_times(tmp_path, late):
    class Look(Callback):
        """Reads the states whenever one may have changed, or a file may have gone."""

        def __init__(self):
            self.different = 0

        def _look(self):
            kept = [load_file(path)["callbacks"][1][1]["kept"] for path in tmp_path.glob("state*.pt")]
            for _, _, name in sum(kept, []):
                assert (tmp_path / "best" / name).exists()
            self.different += len(kept) == 2 and kept[0] != kept[1]

        def on_step_end(self, bot):
            self._look()

        def on_eval_end(self, bot, results):
            self._look()

        def on_state_saved(self, bot):
            self._look()

    class Score(Mean):
        """A metric that always gets better."""

        def compute(self):
            return -float(bot.step)

    best, look = BestCheckpoints(tmp_path / "best", "score", "min"), Look()
    score = Score("score", lambda outputs, batch: outputs[:, 0])
    with writing(late):
        for steps in (7, 12):  # the second time resumed
            bot = make_bot(tmp_path, callbacks=[MovingAverage(), best, look], metrics=[score], save_every=3)
            assert bot.resume() is (steps == 12)
            bot.train(steps, 2)
    assert look.different > 5
    assert len(list((tmp_path / "best").iterdir())) == 2


def test_best_checkpoints_that_went_back_do_not_delete_what_is_kept_again(tmp_path):
    best = BestCheckpoints(tmp_path / "best", "loss", "min")
    bot = make_bot(tmp_path, callbacks=[best], valid_batches=regression(1, 4))
    bot.train(1, 1)
    first = best.best
    bot.step = 2
    best.on_eval_end(bot, {"loss": first.score - 1})  # the run dies before its state is saved
    assert bot.resume() and best.best == first
    bot.save()
    assert first.path.exists()


def test_best_checkpoints_does_not_count_a_state_that_could_not_be_saved(tmp_path, monkeypatch):
    best = BestCheckpoints(tmp_path / "best", "loss", "min")
    bot = make_bot(tmp_path, callbacks=[best], valid_batches=regression(1, 4))
    bot.train(1, 1)
    first = best.best
    bot.step = 2
    best.on_eval_end(bot, {"loss": first.score - 1})
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left on device"):
        patched.setattr(torch, "save", full_disk)
        bot.save()
    bot.save()
    assert steps_of(tmp_path) == {"state.previous.pt": 1, "state.pt": 2} and first.path.exists()
    bot.save()
    assert not first.path.exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_run_on_cuda_that_died_goes_on_from_a_state_of_its_step(tmp_path):
    copies = []

    class Note(Callback):
        """Copies the weights that are saved."""

        def state_dict(self):
            copies.append({name: value.cpu() for name, value in bot.model.state_dict().items()})
            return {}

    arguments = {"device": "cuda", "valid_batches": None, "save_every": 3, "hidden": 4096}
    callbacks = [LearningRateSchedule(lambda step: 1.0), MovingAverage(5)]
    bot = make_bot(tmp_path, callbacks=[*callbacks, Note()], **arguments)
    with writing(late=True):
        bot.train(11, 100)
    assert len(copies) == 4 and steps_of(tmp_path) == {"state.previous.pt": 9, "state.pt": 11}
    assert bot.resume()
    for _ in range(3):  # the same memory again, with steps that wait on the device
        bot.train(bot.step + 2, 1)
        found = load_file(tmp_path / "state.pt")
        assert same(found["model"], copies[-1])
        assert bot.resume() and bot.step == found["step"]
