"""State files, signals, and the results of runs that are killed and resumed."""

import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from helperbot import Bot, Callback, MovingAverage, StateError
from helperbot.signals import SIGNALS
from helperbot.state import STATE_VERSION, StateFiles, random_state, save_file, set_random_state
from helperbot_runs import (
    QUIET,
    Die,
    Killed,
    Stream,
    batches_of,
    flip,
    interrupted,
    load_file,
    make_bot,
    outcome,
    regression,
    same,
    truncate,
    uninterrupted,
    writing,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn


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
def test_a_run_that_dies_at_any_moment_ends_the_same(steps, interval, save_every, patience, kind, die, late, damage):
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
def test_an_unreadable_batch_loses_no_step(tmp_path, at):
    expected = uninterrupted(tmp_path / "all", "stream", save_every=50)
    folder = tmp_path / "failed"
    bot = make_bot(folder, train_batches=Failing(regression(4, 4), at), save_every=50)
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


@pytest.mark.filterwarnings("ignore:for .* which is a no-op")  # weights of meta have no values
def test_tensors_of_callbacks_are_loaded_to_the_device(tmp_path):
    """Else a resumed run would average losses of two devices."""
    state = tmp_path / "state.pt"
    bots = [make_bot(tmp_path, state_file=state, device=device) for device in ("cpu", "meta")]
    bots[0].train(3, 3)
    assert bots[1].resume() and bots[1].step == 3
    (average,) = [callback for callback in bots[1].callbacks if isinstance(callback, MovingAverage)]
    assert {value.device.type for values in average.state_dict().values() for value in values} == {"meta"}


def test_resume_without_a_state_does_nothing(tmp_path):
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
    file = (tmp_path / "state.pt").rename(tmp_path / "alone.pt")
    whole = file.read_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        file.write_bytes(whole[:length])
        with pytest.raises(StateError, match="alone.pt: cannot be read as the state of a run"):
            StateFiles(file).load()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60), opcodes=st.text("ctR)q(}]KMUXVIFN.hjrsu0ab", max_size=30))
def test_any_bytes_are_refused_as_a_state(tmp_path_factory, content, opcodes):
    file = tmp_path_factory.getbasetemp() / "any.pt"
    for some in (content, b"\x80\x02" + opcodes.encode()):
        file.write_bytes(some)
        with pytest.raises(StateError, match="any.pt: "):
            StateFiles(file).load()


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
        ({"train_batches": Stream(regression(4, 4))}, "TypeError"),
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


class Signalling:
    """Validation batches, one of which sends a signal."""

    def __init__(self, at):
        self.at = at
        self.taken = 0

    def __iter__(self):
        for batch in regression(5, 4):
            self.taken += 1
            if self.taken == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


@pytest.mark.parametrize("at, step", [(2, 4), (7, 8), (12, 11)])
def test_a_signal_ends_an_evaluation_at_once_and_it_is_made_again(tmp_path, at, step):
    expected = uninterrupted(tmp_path / "all", valid_batches=regression(5, 4))
    folder = tmp_path / "killed"
    batches = Signalling(at)
    bot = make_bot(folder, valid_batches=batches)
    bot.train(11, 4)
    assert (bot.signal, bot.step, batches.taken) == (signal.SIGTERM, step, at)
    assert [entry["step"] for entry in bot.history] == [4, 8, 11][: at // 5]
    again = make_bot(folder, seed=7, valid_batches=regression(5, 4))
    assert again.resume()
    again.train(11, 4)
    assert same(outcome(again, folder), expected)


def test_a_signal_may_interrupt_the_evaluation_of_a_resumed_run(tmp_path):
    expected = uninterrupted(tmp_path / "all", valid_batches=regression(5, 4))
    folder = tmp_path / "killed"
    for attempt in range(3):
        bot = make_bot(folder, seed=attempt, valid_batches=Signalling(3))
        assert bot.resume() is (attempt > 0)
        bot.train(11, 4)
        assert (bot.signal, bot.step, bot.history) == (signal.SIGTERM, 4, [])
    again = make_bot(folder, seed=7, valid_batches=regression(5, 4))
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
