"""The script that test_helperbot_distributed.py runs in two processes; each saves its results.

Call: python -m torch.distributed.run --standalone --nproc_per_node=2 FILE FOLDER PART
"""

import logging
import os
import signal
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
from helperbot import (
    BestCheckpoints,
    Bot,
    Callback,
    EarlyStopping,
    HistoryFile,
    NonFiniteLossError,
    StateError,
    process_group,
    saving,
)
from helperbot.distributed import (
    SyncBatchNorm1d,
    barrier,
    gather_on_first,
    gather_rows,
    rank,
    rank_zero_first,
    sum_over_ranks,
    world_size,
)
from helperbot.training_step import FiniteGuard, Stepper, TooFewExamplesError
from helperbot_mean import Mean
from torch import nn

CPU = torch.device("cpu")
ROWS = (5, 3)  # of the two processes
STEPS = 7
QUIET = logging.getLogger("helperbot-test-quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


class Note(Callback):
    """Records the loss of every step; at one step, process 1 gets a signal."""

    def __init__(self, kill_at=None, hook="on_step_end"):
        self.kill_at = kill_at
        self.hook = hook
        self.losses = []

    def on_step_end(self, bot):
        self.losses.append(bot.last_loss.item())
        self._kill("on_step_end", bot)

    def on_eval_end(self, bot, results):
        self._kill("on_eval_end", bot)

    def _kill(self, hook, bot):
        if rank() == 1 and (hook, bot.step) == (self.hook, self.kill_at):
            os.kill(os.getpid(), signal.SIGTERM)


def batches_of(sizes, seed):
    """Batches of a linear problem in two variables."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for size in sizes:
        x = torch.randn(size, 2, generator=generator)
        made.append((x, x @ torch.tensor([[2.0], [-1.0]]) + 0.5))
    return made


def part_of(batch, number, count):
    """The rows of a process: every `count`-th."""
    return tuple(tensor[number::count] for tensor in batch)


def network(norm, dropout=0.0):
    """The same initial weights each time, different in each process."""
    torch.manual_seed(5 + rank())  # process 0 must win
    # Before a batch norm the gradient of a bias is rounding noise, which Adam amplifies.
    first = nn.Linear(2, 6, bias=False)
    return nn.Sequential(first, norm(6), nn.Dropout(dropout), nn.Linear(6, 1))


def make_bot(model, note, number, count, folder=None, **arguments):
    """The Bot of process `number` of `count`, which sees its part of each batch."""
    training = [part_of(batch, number, count) for batch in batches_of([8] * 4, seed=1)]
    validation = batches_of([4, 6, 3], seed=2)[number::count]  # unequal numbers, unequal sizes
    callbacks = [note, EarlyStopping("loss", "min", 50)]
    if folder is not None:
        arguments.setdefault("state_file", folder / "state.pt")
        callbacks += [BestCheckpoints(folder / "best", "error", "min"), HistoryFile(folder / "history.csv")]
    return Bot(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.05),
        forward=lambda model, batch: model(batch[0]),
        criterion=lambda outputs, batch: nn.functional.mse_loss(outputs, batch[1]),
        train_batches=training,
        valid_batches=validation,
        metrics=[Mean("error", lambda outputs, batch: (outputs - batch[1]).abs()[:, 0])],
        callbacks=callbacks,
        clip_grad_norm=1.0,
        log_interval=2,
        logger=QUIET,
        **{"save_every": 2, **arguments},
    )


def halves(batch, parts):
    """For `split_batch`."""
    return list(zip(*(tensor.chunk(parts) for tensor in batch)))


VARIANTS = {"batch norm": (nn.BatchNorm1d, {}), "accumulate": (nn.LayerNorm, {"accumulate": 2, "split_batch": halves})}


def train_variant(name, number, count, folder):
    """Train, and return what must be the same in one process and in two."""
    norm, arguments = VARIANTS[name]
    note = Note()
    bot = make_bot(network(norm), note, number, count, folder, **arguments)
    bot.train(STEPS, 3)
    return {
        "losses": note.losses,
        "norm": bot.last_grad_norm.item(),
        "history": bot.history,
        "model": dict(bot.model.state_dict()),
        "stepped": [bot.step, len(bot.log)],
    }


def quarters(batch, parts):
    """For `split_batch`: exactly so many parts, some of them empty."""
    return list(zip(*(tensor.tensor_split(parts) for tensor in batch)))


# Kind of norm, --accumulate, and how many examples each process has.
UNEQUAL = {
    "unequal": (nn.BatchNorm1d, 1, (5, 3)),
    "none in the second": (nn.BatchNorm1d, 1, (4, 0)),
    "none in the first": (nn.BatchNorm1d, 1, (0, 7)),
    "unequal, in parts": (nn.LayerNorm, 4, (9, 6)),
    "more parts than examples": (nn.LayerNorm, 4, (5, 2)),
    "parts that nobody has": (nn.LayerNorm, 4, (2, 1)),
    "none in the second, in parts": (nn.LayerNorm, 4, (6, 0)),
}


def stepped(norm, accumulate, batch):
    """A step on a batch in float64: what must be the same in one process with all examples."""
    model = network(norm).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    stepper = Stepper(
        model,
        optimizer,
        lambda model, batch: model(batch[0]),
        lambda outputs, batch: nn.functional.mse_loss(outputs, batch[1]),
        CPU,
        clip_grad_norm=100.0,
        accumulate=accumulate,
        split_batch=quarters,
    )
    total = stepper.step(tuple(tensor.double() for tensor in batch), 1, FiniteGuard(immediate=True))
    return {
        "examples": total,
        "loss": stepper.last_loss,
        "norm": stepper.last_grad_norm,
        "gradients": {name: value.grad for name, value in model.named_parameters()},
        "model": dict(model.state_dict()),
    }


def unequal(name, number=None):
    """`stepped` of a case, in process `number` of two, or with the examples of both."""
    norm, accumulate, sizes = UNEQUAL[name]
    batch = batches_of([sum(sizes)], seed=4)[0]
    if number is not None:
        batch = tuple(tensor.split(sizes)[number] for tensor in batch)
    return stepped(norm, accumulate, batch)


def too_few():
    """The errors of a step without examples, and of batch norm with a single one."""
    messages = []
    for sizes in ((0, 0), (0, 1)):
        batch = batches_of([sizes[rank()]], seed=1)[0]
        try:
            stepped(nn.BatchNorm1d, 1, batch)
        except (TooFewExamplesError, ValueError) as error:
            messages.append(str(error))
    return messages


class Exchange(Mean):
    """Counts the exchanges."""

    times = 0

    def exchange(self):
        """A collective, which would hang if the processes disagreed."""
        self.times += int(sum_over_ranks(torch.tensor(1)))


def exchanged():
    """Evaluate on unequal numbers of batches, some of them empty."""
    sizes = ([3, 0, 2], [4])[rank()]
    metric = Exchange("error", lambda outputs, batch: (outputs - batch[1]).abs()[:, 0])
    bot = make_bot(network(nn.BatchNorm1d), Note(), rank(), 2)
    bot.metrics = (metric,)
    return {"results": bot.evaluate(batches_of(sizes, seed=6 + rank())), "times": metric.times}


def normalized(case):
    """Batch norm of the rows of this process, and its gradients."""
    shape, options, dtype = case
    generator = torch.Generator().manual_seed(3)
    norm = SyncBatchNorm1d(shape[0], **options)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.randn(shape[0], generator=generator))
            norm.bias.copy_(torch.randn(shape[0], generator=generator))
    rows = 3 + 2 * torch.randn(sum(ROWS), *shape, generator=generator)
    weights = torch.randn(rows.shape, generator=generator)
    place = slice(0, ROWS[0]) if rank() == 0 else slice(ROWS[0], None)
    for _ in range(2):  # the second time with updated running statistics
        norm.zero_grad()
        own = rows[place].to(dtype, copy=True).requires_grad_()
        output = norm(own)
        (output * weights[place]).sum().backward()
    norm.eval()
    return {
        "output": output.detach(),
        "input": own.grad,
        "parameters": [value.grad for value in norm.parameters()],
        "buffers": dict(norm.named_buffers()),
        "evaluated": norm(rows[place].to(dtype)).detach(),
    }


CASES = {
    "(N, C)": ((4,), {}, torch.float32),
    "(N, C, L)": ((4, 3), {}, torch.float32),
    "cumulative average": ((4,), {"momentum": None}, torch.float32),
    "not affine": ((4, 2), {"affine": False}, torch.float32),
    "no running statistics": ((4,), {"track_running_stats": False}, torch.float32),
    "float64": ((4,), {"dtype": torch.float64}, torch.float64),
    "bfloat16": ((4,), {}, torch.bfloat16),
}


def rows_gathered():
    """Gather unequal numbers of rows, and none."""
    own = torch.arange(6).reshape(3, 2)[: 2 + rank()] + 100 * rank()
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    return {
        "unequal": gather_rows(own),
        "bytes": gather_rows(own[:, 0].to(torch.uint8)),
        "float": gather_rows(own.double()),
        "one has none": gather_rows(own[: 2 * rank()]),
        "none": gather_rows(own[:0]),
        "on first": gather_on_first([own, own[:, 0] > 100]),
        "of the second": gather_on_first([own[: 2 * rank()]])[0],
        "sum": sum_over_ranks(value * (1 + rank())),
        "number": sum_over_ranks(torch.tensor(3 + rank())),
        "untouched": value.detach(),
    }


def ordered(folder):
    """Whether process 1 finds what process 0 created in the block."""
    file = folder / "made"
    with rank_zero_first():
        if rank() == 0:
            time.sleep(0.3)
            found = file.exists()
            file.touch()
        else:
            found = file.exists()
    return found


def noisy_bot(folder, note):
    """A Bot with dropout of its own in each process."""
    model = network(nn.BatchNorm1d, dropout=0.4)
    bot = make_bot(model, note, rank(), world_size(), folder)
    torch.manual_seed(50 + rank())
    return bot


def ended(bot):
    """How a run ended."""
    return {
        "signal": bot.signal,
        "step": bot.step,
        "evaluations": [entry["step"] for entry in bot.history],
        "model": dict(bot.model.state_dict()),
        "state": bot.state_dict()["random"]["torch"],
    }


def diverged():
    """One process sees a NaN; both must end."""
    bot = make_bot(network(nn.BatchNorm1d), Note(), rank(), 2, identify=lambda batch: rank())
    if rank() == 1:
        bot.train_batches[2][1][0] = torch.nan
    try:
        bot.train(STEPS, 3)
    except NonFiniteLossError as error:
        return error.step, error.batch
    return None


class States(Callback):
    """Notes the steps whose states are taken, by a clock that runs a second a step, in process 1 a minute."""

    def __init__(self):
        self.bot = None
        self.taken = []

    def on_step_start(self, bot):
        while bot._saver.writing:  # or a state would not be due  # pylint: disable=protected-access
            time.sleep(0.001)

    def state_dict(self):
        self.taken.append(self.bot.step)
        return {}


def timed(folder):
    """The steps whose states are taken every 3 s, by the clock of process 0."""
    states = States()
    bot = states.bot = make_bot(network(nn.BatchNorm1d), states, rank(), 2, folder, save_every=timedelta(seconds=3))
    usual, saving.time = saving.time, SimpleNamespace(monotonic=lambda: bot.step * (1, 60)[rank()])
    try:
        bot.train(STEPS, 100)
    finally:
        saving.time = usual
    return states.taken


def begin(folder):
    """The first launch: everything but resuming."""
    own = folder / f"rank{rank()}"
    results = {
        "norms": {name: normalized(case) for name, case in CASES.items()},
        "rows": rows_gathered(),
        "ordered": ordered(folder),
        "variants": {name: train_variant(name, rank(), 2, own / name.replace(" ", "_")) for name in VARIANTS},
        "half": half_precision(),
        "unequal": {name: unequal(name, rank()) for name in UNEQUAL},
        "too few": too_few(),
        "exchanged": exchanged(),
        "diverged": diverged(),
        "timed": timed(folder / "timed"),
    }
    for name, note in (
        ("all", Note()),
        ("step", Note(4)),
        ("evaluation", Note(3, "on_eval_end")),
        ("last", Note(STEPS, "on_eval_end")),
        ("damaged", Note(5)),
        ("misread", Note(5)),
        (f"lost{rank()}", Note(2)),  # process 1 will not find the file
    ):
        bot = noisy_bot(folder / name, note)
        bot.train(STEPS, 3)
        results[name] = ended(bot)
    return results


def half_precision():
    """The losses with a batch norm between layers in bfloat16."""
    note = Note()
    make_bot(network(nn.BatchNorm1d), note, rank(), 2, amp=torch.bfloat16).train(STEPS, 3)
    return note.losses


@contextmanager
def misreading(active):
    """Have `torch.load` fail once."""
    usual = torch.load

    def misread(*_, **__):
        torch.load = usual
        raise OSError("this process cannot read it")

    torch.load = misread if active else usual
    try:
        yield
    finally:
        torch.load = usual


def go_on(folder):
    """The second launch: resume the runs of the first."""
    results = {}
    bot = noisy_bot(folder / f"lost{rank()}", Note())
    try:
        bot.resume()
    except StateError as error:
        results["lost"] = str(error)
    if rank() == 1:
        with (folder / "damaged" / "state.pt").open("r+b") as file:
            file.truncate(1000)
    barrier()
    for name in ("step", "evaluation", "last", "damaged", "misread"):
        bot = noisy_bot(folder / name, Note())
        torch.manual_seed(1)
        with misreading(name == "misread" and rank() == 1):
            assert bot.resume()
        results[f"{name} from"] = bot.step
        bot.train(STEPS, 3)
        results[name] = ended(bot)
    return results


def fail(bots):
    """Train a Bot, kept in `bots`, until process 1 fails."""

    def criterion(outputs, batch):
        if rank() == 1 and bot.step == 2:
            raise ArithmeticError("process 1 fails")
        return nn.functional.mse_loss(outputs, batch[1])

    bot = make_bot(network(nn.LayerNorm), Note(), rank(), 2)
    bots.append(bot)
    bot._stepper.criterion = criterion  # pylint: disable=protected-access
    bot.train(STEPS, 3)


def main():
    """Run the part and save its results."""
    folder, part = Path(sys.argv[1]), sys.argv[2]
    bots = []
    with process_group(CPU):
        if part == "fail":
            fail(bots)
        results = {"begin": begin, "go_on": go_on}[part](folder)
        torch.save(results, folder / f"{part}{rank()}.pt")


if __name__ == "__main__":
    main()
