"""State files, signals, and the results of runs that are killed and resumed."""

import errno
import functools
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helperbot import (
    BestCheckpoints,
    Bot,
    Callback,
    EarlyStopping,
    LearningRateSchedule,
    MovingAverage,
    NonFiniteLossError,
    StateError,
    saving,
    state,
    warmup_linear_decay,
)
from helperbot.saving import StateSaver
from helperbot.signals import SIGNALS
from helperbot.state import (
    STATE_VERSION,
    DamagedStateError,
    StateFiles,
    load_file,
    random_state,
    save_file,
    set_random_state,
)
from helperbot_mean import Mean
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

QUIET = logging.getLogger("helperbot-test-quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False
NEVER = 10**9


@contextmanager
def writing(late):
    """Have states written before training goes on (not `late`), or only once it waits for that."""
    save, write, finish = StateSaver.save, StateFiles.write, StateSaver.finish
    waits = threading.Event()

    def save_at_once(saver, *arguments):
        save(saver, *arguments)
        saver._thread.join()  # pylint: disable=protected-access

    def write_late(files, *arguments):
        assert waits.wait(60)
        write(files, *arguments)

    def finish_late(saver):
        waits.set()
        try:
            return finish(saver)
        finally:
            waits.clear()

    with pytest.MonkeyPatch.context() as patched:
        if late:
            patched.setattr(StateFiles, "write", write_late)
            patched.setattr(StateSaver, "finish", finish_late)
        else:
            patched.setattr(StateSaver, "save", save_at_once)
        yield


class Killed(Exception):
    """Ends a run in these tests."""


class Die(Callback):
    """Ends the run once, in a hook: by an exception, or a signal to this process."""

    def __init__(self, step=NEVER, hook="on_step_end", way="exception"):
        self.step = step
        self.hook = hook
        self.way = way
        self.ended = 0

    def _at(self, hook, bot):
        if (bot.step, hook) != (self.step, self.hook):
            return
        self.step = NEVER
        if self.way == "exception":
            raise Killed
        os.kill(os.getpid(), self.way)

    def on_step_start(self, bot):
        self._at("on_step_start", bot)

    def on_step_end(self, bot):
        self._at("on_step_end", bot)

    def on_eval_end(self, bot, results):
        self._at("on_eval_end", bot)

    def on_state_saved(self, bot):
        self._at("on_state_saved", bot)

    def on_train_end(self, bot):
        self.ended += 1


class Stream:
    """Batches with a state, in another order in each epoch."""

    def __init__(self, batches):
        self.batches = batches
        self.epoch = 0
        self.taken = 0

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(self.batches), generator=generator).tolist()
        for number in order[self.taken :]:
            self.taken += 1
            yield self.batches[number]
        self.epoch += 1
        self.taken = 0

    def state_dict(self):
        """Plain values."""
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state):
        """Continue there at the next iteration."""
        self.epoch, self.taken = state["epoch"], state["taken"]


def regression(batches, size=4):
    """Batches of a linear problem in two variables."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(batches):
        x = torch.randn(size, 2, generator=generator)
        made.append({"x": x, "y": x @ torch.tensor([[2.0], [-1.0]]) + 0.5})
    return made


def noisy_forward(model, batch):
    """Draws random numbers beside the dropout."""
    if not model.training:
        return model(batch["x"])
    return model(batch["x"] + 0.01 * torch.randn(()))


def make_bot(folder, die=None, seed=0, hidden=6, **arguments):
    """A Bot with everything that has a state; other seeds give other initial weights."""
    torch.manual_seed(seed)
    steps = arguments.pop("steps", 11)
    patience = arguments.pop("patience", 50)
    model = nn.Sequential(nn.Linear(2, hidden), nn.BatchNorm1d(hidden), nn.Dropout(0.3), nn.Linear(hidden, 1))
    schedule = functools.partial(warmup_linear_decay, steps=steps, warmup=0.2)
    defaults = {
        "optimizer": torch.optim.AdamW(model.parameters(), lr=0.05),
        "train_batches": regression(4),
        "valid_batches": regression(2),
        "callbacks": [
            LearningRateSchedule(schedule),
            MovingAverage(5),
            BestCheckpoints(folder / "best", "loss", "min"),
            EarlyStopping("loss", "min", patience),
            die or Die(),
        ],
        "clip_grad_norm": 1.0,
        "log_interval": 2,
        "logger": QUIET,
        "state_file": folder / "state.pt",
        "save_every": 3,
    }
    return Bot(
        model,
        forward=noisy_forward,
        criterion=lambda outputs, batch: nn.functional.mse_loss(outputs, batch["y"]),
        **defaults | arguments,
    )


def batches_of(kind):
    """The training batches, the same in all runs of a test."""
    return regression(4) if kind == "list" else Stream(regression(4))


def outcome(bot, folder):
    """Everything that must not change after an interruption."""
    state = bot.state_dict()
    for entry in state["log"]:
        entry.pop("examples_per_second")  # varies
    best = folder / "best"
    files = {path.name: torch.load(path, weights_only=True) for path in sorted(best.glob("*"))}
    return {"state": state, "files": files}


def same(one, other):
    """Whether two nested values are equal, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def uninterrupted(folder, kind="list", interval=4, **arguments):
    """The outcome of an uninterrupted run."""
    bot = make_bot(folder, train_batches=batches_of(kind), **arguments)
    bot.train(arguments.get("steps", 11), interval)
    return outcome(bot, folder)


def truncate(file):
    """As a disk may leave it that loses its power."""
    os.truncate(file, file.stat().st_size - 100)


def flip(file):
    """Change a bit of the first tensor, which torch does not notice."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        tensor = archive.read(name)
    content = bytearray(file.read_bytes())
    content[content.index(tensor)] ^= 16
    file.write_bytes(content)
    torch.load(file, weights_only=True)


def interrupted(folder, die, kind="list", interval=4, damage=None, **arguments):
    """The outcome of a run that dies and is resumed by a new Bot, from the older state if the newest is damaged."""
    steps = arguments.get("steps", 11)
    bot = make_bot(folder, die, train_batches=batches_of(kind), **arguments)
    try:
        bot.train(steps, interval)
    except Killed:
        pass
    else:
        if bot.signal is None:  # too late to interrupt
            return outcome(bot, folder)
    if damage is not None and (folder / "state.previous.pt").exists():
        before = load_file(folder / "state.pt")["step"]
        damage(folder / "state.pt")
    else:
        damage = None
    again = make_bot(folder, seed=7, train_batches=batches_of(kind), **arguments)
    if again.resume():
        assert damage is None or again.step <= before
        kept = again.callbacks[2].state_dict()["kept"]
        assert all((folder / "best" / name).exists() for _, _, name in kept)
    else:
        again = make_bot(folder, train_batches=batches_of(kind), **arguments)
    again.train(steps, interval)
    assert again.callbacks[-1].ended == 1
    return outcome(again, folder)


@pytest.fixture(name="signals", autouse=True)
def fixture_signals():
    """Make an unhandled signal fail the test instead of killing pytest."""

    def unexpected(number, _):
        raise AssertionError(f"signal {number} came through")

    before = {number: signal.signal(number, unexpected) for number in SIGNALS}
    yield unexpected
    left = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in before.items():
        signal.signal(number, handler)
    assert left == [unexpected] * len(SIGNALS)


@pytest.mark.parametrize("way", ["exception", signal.SIGTERM])
@pytest.mark.parametrize("kind", ["list", "stream"])
def test_a_run_that_died_at_any_step_ends_as_if_it_had_not(tmp_path, kind, way):
    expected = uninterrupted(tmp_path / "all", kind)
    # The file of step 8 has been beaten at the end, the state before the last evaluation needs it.
    assert len(expected["state"]["history"]) == 3 and list(expected["files"]) == [
        "step_00000008.pt",
        "step_00000011.pt",
    ]
    for step in range(1, 12):
        folder = tmp_path / str(step)
        assert same(interrupted(folder, Die(step, way=way), kind), expected), step


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, 10),
    interval=st.integers(1, 11),
    save_every=st.integers(1, 11),
    patience=st.sampled_from([1, 50]),
    kind=st.sampled_from(["list", "stream"]),
    die=st.builds(
        Die,
        st.integers(0, 10),
        st.sampled_from(["on_step_start", "on_step_end", "on_eval_end", "on_state_saved"]),
        st.sampled_from(["exception", signal.SIGTERM, signal.SIGINT]),
    ),
    late=st.booleans(),
    damage=st.sampled_from([None, truncate, flip, Path.unlink]),
)
@example(10, 2, 3, 1, "list", Die(4, "on_state_saved"), False, None)
@example(8, 4, 3, 50, "stream", Die(8, "on_eval_end", signal.SIGTERM), True, flip)
def test_whenever_a_run_dies_it_ends_the_same(steps, interval, save_every, patience, kind, die, late, damage):
    # Hypothesis may show an object again when it looks for a simpler example.
    die = Die(die.step, die.hook, die.way)
    rest = {"interval": interval, "steps": steps, "save_every": save_every, "patience": patience}
    with tempfile.TemporaryDirectory() as name, writing(late):
        folder = Path(name)
        expected = uninterrupted(folder / "all", kind, **rest)
        got = interrupted(folder / "killed", die, kind, damage=damage, **rest)
        assert same(got, expected)


def test_a_run_may_die_many_times(tmp_path):
    expected = uninterrupted(tmp_path / "all")
    for step in (2, 4, 5, 8, 11):
        bot = make_bot(tmp_path / "killed", Die(step, way=signal.SIGTERM), seed=0)
        assert bot.resume() is (step > 2)
        bot.train(11, 4)
        assert (bot.signal, bot.step, bot.saved_step) == (signal.SIGTERM, step, step)
        assert bot.callbacks[-1].ended == 0
    bot = make_bot(tmp_path / "killed")
    assert bot.resume() and bot.resumed
    bot.train(11, 4)
    assert not bot.resumed and bot.signal is None
    assert same(outcome(bot, tmp_path / "killed"), expected)


def test_a_list_is_skipped_up_to_its_place_over_several_epochs(tmp_path):
    seen = []

    class Note(Callback):
        """Dies at step 10."""

        def on_step_end(self, bot):
            seen.append(bot.last_batch)
            if bot.step == 10 and not bot.went_on:
                raise Killed

    def bot_of(went_on):
        def forward(model, batch):
            bot.last_batch = batch[0].item()
            return model(batch)

        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0)
        batches = [torch.full((1, 1), float(number)) for number in range(4)]
        bot = Bot(
            model,
            optimizer,
            forward,
            lambda outputs, batch: outputs.mean(),
            batches,
            callbacks=[Note()],
            logger=QUIET,
            state_file=tmp_path / "state.pt",
            save_every=3,
        )
        bot.went_on = went_on
        return bot

    with pytest.raises(Killed):
        bot_of(False).train(13, 100)
    assert seen == [number % 4 for number in range(10)]
    seen.clear()
    bot = bot_of(True)
    assert bot.resume() and bot.step == 9
    bot.train(13, 100)
    assert seen == [number % 4 for number in range(9, 13)]


@pytest.mark.parametrize("died, saved", [(5, 4), (8, 6)])
@pytest.mark.parametrize("kind", ["list", "stream"])
def test_the_same_bot_goes_back_to_its_state(tmp_path, kind, died, saved):
    expected = uninterrupted(tmp_path / "all", kind)
    folder = tmp_path / "killed"
    bot = make_bot(folder, Die(died), train_batches=batches_of(kind))
    with pytest.raises(Killed):
        bot.train(11, 4)
    assert bot.resume() and bot.step == saved
    bot.train(11, 4)
    assert same(outcome(bot, folder), expected)


class Failing(Stream):
    """Batches, one of which fails to be read the first time."""

    def __init__(self, batches, at):
        super().__init__(batches)
        self.left = at

    def __iter__(self):
        for batch in super().__iter__():
            self.left -= 1
            if self.left == 0:
                self.taken -= 1  # not given
                raise OSError("cannot be read")
            yield batch


@pytest.mark.parametrize("at", [1, 2, 5, 6, 8, 11])
def test_where_a_batch_cannot_be_read_no_step_is_lost(tmp_path, at):
    expected = uninterrupted(tmp_path / "all", "stream", save_every=50)
    folder = tmp_path / "failed"
    bot = make_bot(folder, train_batches=Failing(regression(4), at), save_every=50)
    with pytest.raises(OSError, match="cannot be read"):
        bot.train(11, 4)
    assert bot.step == at - 1 and bot.saved_step == (at - 1 or None)
    again = make_bot(folder, seed=7, train_batches=batches_of("stream"), save_every=50)
    if again.resume():
        assert again.step == at - 1
    else:
        assert at == 1
        again = make_bot(folder, train_batches=batches_of("stream"), save_every=50)
    again.train(11, 4)
    assert same(outcome(again, folder), expected)


def test_resume_without_a_state_is_no_resume(tmp_path):
    assert make_bot(tmp_path).resume() is False
    bot = make_bot(tmp_path, state_file=None)
    assert bot.resume() is False
    bot.save()
    assert bot.saved_step is None and not list(tmp_path.iterdir())


def test_a_finished_run_is_not_trained_further(tmp_path):
    make_bot(tmp_path).train(11, 4)
    bot = make_bot(tmp_path, seed=7)
    bot.resume()
    before = {name: value.clone() for name, value in bot.model.state_dict().items()}
    history = bot.train(11, 4)
    assert same(before, bot.model.state_dict())
    assert [entry["step"] for entry in history] == [4, 8, 11]


class Evil:
    """Runs a shell command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_never_executed(tmp_path):
    marker = tmp_path / "executed"
    file = tmp_path / "state.pt"
    function, arguments = Evil(marker).__reduce__()  # what unpickling would call
    function(*arguments)
    assert marker.exists()  # unpickling would run the command
    marker.unlink()
    for write in (
        lambda: file.write_bytes(pickle.dumps(Evil(marker))),
        lambda: file.write_bytes(pickle.dumps(Evil(marker), protocol=2)),
        lambda: torch.save(Evil(marker), file),
        lambda: torch.save({"version": STATE_VERSION, "step": Evil(marker)}, file),
    ):
        write()
        with pytest.raises(StateError, match="state.pt: cannot be read"):
            make_bot(tmp_path).resume()
        assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02garbage", b"PK\x03\x04", b"\x80\x02K", bytes(1000)])
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(StateError, match="state.pt: cannot be read as the state of a run"):
        make_bot(tmp_path).resume()


def test_truncated_states_are_refused(tmp_path):
    make_bot(tmp_path).train(4, 4)
    file = tmp_path / "state.pt"
    whole = file.read_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        file.write_bytes(whole[:length])
        with pytest.raises(StateError, match="state.pt: cannot be read as the state of a run"):
            load_file(file)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60), opcodes=st.text("ctR)q(}]KMUXVIFN.hjrsu0ab", max_size=30))
def test_any_bytes_are_refused_as_a_state(tmp_path_factory, content, opcodes):
    file = tmp_path_factory.getbasetemp() / "any.pt"
    for some in (content, b"\x80\x02" + opcodes.encode()):
        file.write_bytes(some)
        with pytest.raises(StateError, match="any.pt: "):
            load_file(file)


@pytest.mark.parametrize("version", [None, 0, 1, 3, "2.0"])
def test_other_versions_are_refused(tmp_path, version):
    state = [] if version is None else {"version": version}
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(StateError, match=f"state.pt: state version {version}, expected 2"):
        make_bot(tmp_path).resume()


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"callbacks": [MovingAverage()]}, r"the callbacks \['Lea.*Die'\], the Bot \['MovingAverage'"),
        ({"hidden": 7}, "size mismatch|Error.* in loading state_dict"),
        ({"amp": torch.float16}, "[Ss]caler"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)])}, "group"),
        ({"train_batches": Stream(regression(4))}, "TypeError"),
    ],
)
def test_states_of_other_runs_are_refused(tmp_path, arguments, reason):
    make_bot(tmp_path).train(4, 4)
    with pytest.raises(StateError, match=rf"state.pt: does not fit this run \(.*({reason})"):
        make_bot(tmp_path, **arguments).resume()


def test_states_without_an_entry_are_refused(tmp_path):
    bot = make_bot(tmp_path)
    bot.train(4, 4)
    for name in bot.state_dict():
        if name != "version":
            state = bot.state_dict()
            del state[name]
            save_file(state, tmp_path / "state.pt")
            with pytest.raises(StateError, match="state.pt: does not fit this run"):
                make_bot(tmp_path).resume()


def test_entries_of_earlier_releases_that_nobody_needs_any_more_are_passed_over(tmp_path):
    expected = uninterrupted(tmp_path / "all")
    make_bot(tmp_path / "killed", Die(5, way=signal.SIGTERM)).train(11, 4)
    file = tmp_path / "killed" / "state.pt"
    state = load_file(file)
    state["first"] = 0
    state["random"] |= {"python": random.getstate(), "numpy": ("MT19937", torch.zeros(624), 0, 0, 0.0)}
    save_file(state, file)
    bot = make_bot(tmp_path / "killed", seed=7)
    assert bot.resume()
    bot.train(11, 4)
    assert same(outcome(bot, tmp_path / "killed"), expected)


def test_a_run_has_at_least_the_steps_of_its_state(tmp_path):
    make_bot(tmp_path).train(11, 4)
    bot = make_bot(tmp_path)
    bot.resume()
    with pytest.raises(ValueError, match="steps must be at least 11, got 10"):
        bot.train(10, 4)


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
        found = load_file(file)
    except DamagedStateError:
        return
    assert same(found, content)


def test_states_of_another_run_do_not_stay(tmp_path):
    make_bot(tmp_path).train(4, 4)
    make_bot(tmp_path, valid_batches=None, save_every=2).train(2, 2)  # has not been resumed
    assert steps_of(tmp_path) == {"state.pt": 2}


@pytest.mark.parametrize("failing", [1, 2])
def test_whichever_rename_a_run_dies_before_a_whole_state_is_there(tmp_path, monkeypatch, failing):
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
        patched.setattr(state.os, "replace", dying)
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
    bot = make_bot(tmp_path, callbacks=[best], valid_batches=regression(1))
    bot.train(1, 1)
    first = best.best
    bot.step = 2
    best.on_eval_end(bot, {"loss": first.score - 1})  # the run dies before its state is saved
    assert bot.resume() and best.best == first
    bot.save()
    assert first.path.exists()


def test_best_checkpoints_does_not_count_a_state_that_could_not_be_saved(tmp_path, monkeypatch):
    best = BestCheckpoints(tmp_path / "best", "loss", "min")
    bot = make_bot(tmp_path, callbacks=[best], valid_batches=regression(1))
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


class Signalling:
    """Validation batches, one of which sends a signal."""

    def __init__(self, at):
        self.at = at
        self.taken = 0

    def __iter__(self):
        for batch in regression(5):
            self.taken += 1
            if self.taken == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


@pytest.mark.parametrize("at, step", [(2, 4), (7, 8), (12, 11)])
def test_a_signal_ends_an_evaluation_at_once_and_it_is_made_again(tmp_path, at, step):
    expected = uninterrupted(tmp_path / "all", valid_batches=regression(5))
    folder = tmp_path / "killed"
    batches = Signalling(at)
    bot = make_bot(folder, valid_batches=batches)
    bot.train(11, 4)
    assert (bot.signal, bot.step, batches.taken) == (signal.SIGTERM, step, at)
    assert [entry["step"] for entry in bot.history] == [4, 8, 11][: at // 5]
    again = make_bot(folder, seed=7, valid_batches=regression(5))
    assert again.resume()
    again.train(11, 4)
    assert same(outcome(again, folder), expected)


def test_a_signal_may_interrupt_the_evaluation_of_a_resumed_run(tmp_path):
    expected = uninterrupted(tmp_path / "all", valid_batches=regression(5))
    folder = tmp_path / "killed"
    for attempt in range(3):
        bot = make_bot(folder, seed=attempt, valid_batches=Signalling(3))
        assert bot.resume() is (attempt > 0)
        bot.train(11, 4)
        assert (bot.signal, bot.step, bot.history) == (signal.SIGTERM, 4, [])
    again = make_bot(folder, seed=7, valid_batches=regression(5))
    again.resume()
    again.train(11, 4)
    assert same(outcome(again, folder), expected)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_last_evaluation_is_not_lost(tmp_path, number):
    bot = make_bot(tmp_path, Die(11, "on_eval_end", number))
    bot.train(11, 4)
    assert (bot.signal, bot.step) == (number, 11)
    assert bot.callbacks[-1].ended == 0
    again = make_bot(tmp_path, seed=7)
    again.resume()
    again.train(11, 4)
    assert again.callbacks[-1].ended == 1 and again.signal is None


def test_without_a_state_file_signals_do_what_they_always_do(tmp_path):
    bot = make_bot(tmp_path, Die(3, way=signal.SIGTERM), state_file=None)
    with pytest.raises(AssertionError, match="came through"):
        bot.train(11, 4)


class Twice(Callback):
    """Sends the same signal twice at step 2."""

    def __init__(self, number):
        self.number = number

    def on_step_end(self, bot):
        if bot.step == 2:
            os.kill(os.getpid(), self.number)
            os.kill(os.getpid(), self.number)


def test_a_second_interrupt_is_a_keyboard_interrupt(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            make_bot(tmp_path, callbacks=[Twice(signal.SIGINT)]).train(11, 4)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_sigterm_kills(tmp_path):
    code = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_helperbot_state import Twice, make_bot
make_bot(Path({str(tmp_path)!r}), callbacks=[Twice(signal.SIGTERM)]).train(11, 4)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGTERM, ended.stderr


def test_handlers_are_put_back_even_after_an_error(tmp_path, signals):
    with pytest.raises(Killed):
        make_bot(tmp_path, Die(3)).train(11, 4)
    assert [signal.getsignal(number) for number in SIGNALS] == [signals] * len(SIGNALS)


def test_no_handlers_are_installed_in_threads(tmp_path, signals):
    seen = []

    class Look(Callback):
        """Notes the handlers."""

        def on_step_end(self, bot):
            seen.append([signal.getsignal(number) for number in SIGNALS])

    bot = make_bot(tmp_path, callbacks=[Look()])
    thread = threading.Thread(target=bot.train, args=(3, 3))
    thread.start()
    thread.join()
    assert bot.step == 3 and seen == [[signals] * len(SIGNALS)] * 3


def test_the_random_generator_comes_back(tmp_path):
    device = torch.device("cpu")
    save_file({"version": STATE_VERSION, "random": random_state(device)}, tmp_path / "random.pt")
    first = torch.rand(700)
    assert not torch.equal(torch.rand(700), first)
    set_random_state(load_file(tmp_path / "random.pt")["random"], device)
    assert torch.equal(torch.rand(700), first)
