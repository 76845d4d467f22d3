"""Small runs that die and are resumed, for the tests of states."""

import functools
import logging
import os
import threading
import zipfile
from contextlib import contextmanager

import pytest
import torch
from helperbot import (
    BestCheckpoints,
    Bot,
    Callback,
    EarlyStopping,
    LearningRateSchedule,
    MovingAverage,
    warmup_linear_decay,
)
from helperbot.saving import StateSaver
from helperbot.state import StateFiles
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


def regression(batches=10, size=16):
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
        "train_batches": regression(4, 4),
        "valid_batches": regression(2, 4),
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
    return regression(4, 4) if kind == "list" else Stream(regression(4, 4))


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


def load_file(path):
    """The content of a state file."""
    return torch.load(path, weights_only=True)


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
    newest = NEVER
    if damage is not None and (folder / "state.previous.pt").exists():
        newest = load_file(folder / "state.pt")["step"]
        damage(folder / "state.pt")
    again = make_bot(folder, seed=7, train_batches=batches_of(kind), **arguments)
    if again.resume():
        assert again.step <= newest
        kept = again.callbacks[2].state_dict()["kept"]
        assert all((folder / "best" / name).exists() for _, _, name in kept)
    else:
        again = make_bot(folder, train_batches=batches_of(kind), **arguments)
    again.train(steps, interval)
    assert again.callbacks[-1].ended == 1
    return outcome(again, folder)
