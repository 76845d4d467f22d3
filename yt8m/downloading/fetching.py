"""Shards of plans to folders: which are there, which are missing, and how those come, several at a time."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from yt8m.common.errors import UserError
from yt8m.common.files import locked
from yt8m.common.progress import Progress
from yt8m.data.partitions import NAME_COLUMNS
from yt8m.downloading.crew import Moved, Said, Watch, work_off
from yt8m.downloading.plan import (
    PLAN_BYTES,
    VOCABULARY_URL,
    PlanSource,
    RemoteShard,
    Selection,
    looks_like_html,
    parse_plan,
)
from yt8m.downloading.transfers import PARTIAL, Client, Patience, TransferError
from yt8m.downloading.verified import VerifiedFiles, new_md5, read_into

LOGGER = logging.getLogger(__name__)
ASIDE = ".replaced"  # what a file is called that was there with another MD5
_LOCK = ".download.lock"
_SECONDS_BETWEEN_SAVES = 5.0

State = Literal["verified", "unread", "begun", "missing"]


@dataclass(frozen=True)
class Batch:
    """The wanted shards of a plan, by name, and the folder that they go to."""

    title: str
    folder: Path
    shards: tuple[RemoteShard, ...]


@dataclass(frozen=True)
class Task:
    """A shard, and its batch."""

    batch: Batch
    shard: RemoteShard

    @property
    def path(self) -> Path:
        """Where the shard goes."""
        return self.batch.folder / self.shard.name

    @property
    def partial(self) -> Path:
        """Where the shard is until it is whole."""
        return self.batch.folder / f"{self.shard.name}{PARTIAL}"


@dataclass(frozen=True)
class Estimate:
    """What is still to come: `first_bytes`, the size of the first missing shard, stands for all."""

    n_shards: int
    first_bytes: int
    begun_bytes: int

    @property
    def n_bytes(self) -> int:
        """About how many bytes are to come."""
        return max(self.n_shards * self.first_bytes - self.begun_bytes, 0)


@dataclass(frozen=True)
class Outcome:
    """What a download has come to: how many shards of each batch were there and were fetched, and which failed."""

    n_there: dict[str, int]
    n_fetched: dict[str, int]
    set_aside: tuple[Path, ...]
    failed: tuple[TransferError, ...]


def read_batch(source: PlanSource, selection: Selection, patience: Patience) -> Batch:
    """Read a plan, and choose from it. Raises `UserError` if it cannot be had, is none, or has no such shards."""
    if source.is_url:
        content = _fetch_now(source.location, PLAN_BYTES, patience)
    else:
        with Path(source.location).open("rb") as file:
            content = file.read(PLAN_BYTES + 1)
        if len(content) > PLAN_BYTES:
            raise UserError(f"{source.location}: more than {PLAN_BYTES:,} bytes; this cannot be a plan file")
    plan = parse_plan(content, source.location)
    names = selection.of(list(plan), source.location)
    if not names:
        raise UserError(f"--shards: {source.location} has {len(plan)} shards, and none of them is chosen")
    shards = tuple(RemoteShard(name, source.base_url + name, plan[name]) for name in names)
    return Batch(source.title, source.folder, shards)


def fetch_vocabulary(patience: Patience) -> str:
    """The data set's vocabulary of all labels, as CSV. Raises `UserError` if it cannot be had."""
    content = _fetch_now(VOCABULARY_URL, PLAN_BYTES, patience)
    header = content.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip().split(b",")
    if looks_like_html(content) or not {name.encode() for name in NAME_COLUMNS} <= set(header):
        raise UserError(f"{VOCABULARY_URL}: expected CSV with the columns {', '.join(NAME_COLUMNS)}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{VOCABULARY_URL}: not UTF-8 ({error})") from None


def _fetch_now(url: str, limit: int, patience: Patience) -> bytes:
    """A small file, by a thread of its own, so that the log has what it meets with."""
    with closing(
        work_off([url], 1, lambda watch: lambda url: Client(patience, watch).fetch_small(url, limit))
    ) as events:
        try:
            for event in events:
                if isinstance(event, Said):
                    LOGGER.info("%s", event.text)
                elif not isinstance(event, Moved):
                    return event.result
        except TransferError as error:
            raise UserError(str(error)) from None
    raise AssertionError("a task neither done nor failed")


def states(batch: Batch, data_dir: Path) -> dict[str, State]:
    """What there is of each shard, by its name; nothing is read. `unread`: a file whose MD5 is not known."""
    verified = VerifiedFiles(batch.folder, data_dir)
    return {shard.name: _state(Task(batch, shard), verified) for shard in batch.shards}


def _state(task: Task, verified: VerifiedFiles) -> State:
    if verified.holds(task.shard.name, task.shard.md5):
        return "verified"
    if task.path.exists():
        return "unread"
    return "begun" if task.partial.exists() else "missing"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other downloads out of it.

    Raises `UserError` if one is at work there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK, f"{folder}: another download into this folder is at work; wait until it has ended"):
        yield


def _require_case(batch: Batch) -> None:
    """Raise `UserError` if shards differ only in the case of letters, as the data set's do, and files here cannot."""
    n_distinct = len({shard.name.casefold() for shard in batch.shards})
    if n_distinct < len(batch.shards) and (batch.folder / _LOCK.upper()).exists():
        raise UserError(
            f"{batch.folder}: this file system does not tell upper from lower case, and {len(batch.shards)} shards "
            f"would become {n_distinct} files; choose a folder on one that does"
        )


class Download:
    """Batches of shards to their folders, which have to be `claimed`."""

    def __init__(self, batches: Sequence[Batch], data_dir: Path, patience: Patience, n_threads: int) -> None:
        """Raises `UserError` for a folder that cannot hold the files."""
        self._batches, self._patience, self._n_threads = batches, patience, n_threads
        self._verified = {batch.folder: VerifiedFiles(batch.folder, data_dir) for batch in batches}
        self._last_save = time.monotonic()
        for batch in batches:
            _require_case(batch)

    def look(self, verify: bool) -> list[Task]:
        """Those shards that are not there. Files whose MD5 is not known are read; with `verify` all of them are."""
        tasks = [Task(batch, shard) for batch in self._batches for shard in batch.shards]
        state = {task: _state(task, self._verified[task.batch.folder]) for task in tasks}
        for task in tasks:
            if state[task] == "unread" and not task.path.is_file():
                raise UserError(f"{task.path}: expected a file or nothing of this name; move it away")
        unread = [task for task in tasks if state[task] == "unread" or verify and state[task] == "verified"]
        there = {task for task in tasks if state[task] == "verified"} - set(unread)
        if unread:
            n_bytes = sum(task.path.stat().st_size for task in unread)
            LOGGER.info("verifying %d files that are there, %s", len(unread), in_gigabytes(n_bytes))
            there |= self._verify(unread, n_bytes)
        return [task for task in tasks if task not in there]

    def _verify(self, tasks: list[Task], n_bytes: int) -> set[Task]:
        """Those whose MD5 is right."""
        right = set()
        with self._counting("verifying", n_bytes, "byte") as counter:
            with closing(work_off(tasks, self._n_threads, lambda watch: lambda task: _has_md5(task, watch))) as events:
                for event in events:
                    if isinstance(event, Moved):
                        counter.add(event.count)
                    elif not isinstance(event, Said):
                        if event.result:
                            right.add(event.task)
                            self._remember(event.task)
                        else:
                            LOGGER.warning("%s: its MD5 is not that of the plan", event.task.path)
        return right

    def fetch(self, missing: Sequence[Task], expected: Estimate | None) -> Outcome:
        """Fetch shards, several at a time. Files of their names that are there are set aside, not written over."""
        results: dict[Task, TransferError | Path | None] = {}
        patience = self._patience

        def make_worker(watch: Watch) -> Callable[[Task], TransferError | Path | None]:
            client = Client(patience, watch)
            return lambda task: _fetch(task, client)

        # Where the server does not tell sizes, shards are counted.
        total, unit = (expected.n_bytes, "byte") if expected else (len(missing), "shard")
        with self._counting("downloading", total, unit) as counter:
            with closing(work_off(missing, self._n_threads, make_worker)) as events:
                for event in events:
                    if isinstance(event, Said):
                        LOGGER.info("%s", event.text)
                    elif isinstance(event, Moved):
                        counter.add(event.count if expected else 0)
                    else:
                        counter.add(0 if expected else 1)
                        results[event.task] = event.result
                        self._conclude(event.task, event.result)
        return _outcome(self._batches, results)

    def _conclude(self, task: Task, result: TransferError | Path | None) -> None:
        """A shard has been fetched, or has failed."""
        if isinstance(result, TransferError):
            LOGGER.info("failed: %s", result)
        else:
            LOGGER.debug("%s: fetched", task.path)
            self._remember(task)

    def _remember(self, task: Task) -> None:
        """This shard is there and right; it is written down now and then."""
        self._verified[task.batch.folder].add(task.shard.name, task.shard.md5)
        if time.monotonic() - self._last_save >= _SECONDS_BETWEEN_SAVES:
            self._save()

    def _save(self) -> None:
        for verified in self._verified.values():
            verified.save()
        self._last_save = time.monotonic()

    @contextmanager
    def _counting(self, title: str, total: int, unit: str) -> Iterator["_Counter"]:
        """A bar for so much; what has been verified is written down at its end, whatever that is."""
        try:
            with Progress(title, total, unit, LOGGER) as progress:
                yield _Counter(progress, total)
        finally:
            self._save()


def _outcome(batches: Sequence[Batch], results: dict[Task, TransferError | Path | None]) -> Outcome:
    n_there = {batch.title: len(batch.shards) for batch in batches}
    n_fetched = dict.fromkeys(n_there, 0)
    for task, result in results.items():
        n_there[task.batch.title] -= 1
        n_fetched[task.batch.title] += not isinstance(result, TransferError)
    set_aside = sorted(result for result in results.values() if isinstance(result, Path))
    failed = [result for result in results.values() if isinstance(result, TransferError)]
    return Outcome(n_there, n_fetched, tuple(set_aside), tuple(sorted(failed, key=lambda error: error.url)))


class _Counter:
    """Shows what is done as progress, which has room for neither less than nothing nor more than was expected."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total = progress, total
        self._done = self._shown = 0

    def add(self, count: int) -> None:
        """So much more, or less."""
        self._done += count
        shown = min(max(self._done, 0), self._total)
        self._progress.update(shown - self._shown)
        self._shown = shown


def estimate(missing: Sequence[Task], patience: Patience) -> Estimate | None:
    """How much is to come, by what the server says of the first shard; None if it says nothing."""
    if not missing:
        return Estimate(0, 0, 0)
    first_bytes = Client(patience, Watch()).size_of(missing[0].shard.url)
    if first_bytes is None:
        return None
    begun = sum(task.partial.stat().st_size for task in missing if task.partial.is_file())
    return Estimate(len(missing), first_bytes, begun)


def warn_of_little_space(missing: Sequence[Task], expected: Estimate) -> None:
    """A warning for each disk on which there is less space than is to come."""
    disks: dict[int, list[Task]] = {}
    for task in missing:
        disks.setdefault(task.batch.folder.stat().st_dev, []).append(task)
    for tasks in disks.values():
        n_bytes = expected.n_bytes * len(tasks) // len(missing)
        folder = tasks[0].batch.folder
        free = shutil.disk_usage(folder).free
        if n_bytes > free:
            LOGGER.warning(
                "%s: about %s are to come, and %s are free; it will not fit",
                folder,
                in_gigabytes(n_bytes),
                in_gigabytes(free),
            )


def in_gigabytes(n_bytes: int) -> str:
    """A number of bytes as people say it."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.1f} MB"


def _has_md5(task: Task, watch: Watch) -> bool:
    digest = new_md5()
    try:
        with task.path.open("rb") as file:
            read_into(digest, file, watch.moved)
    except OSError as error:
        error.filename = error.filename or str(task.path)  # read() does not name it
        raise
    return digest.hexdigest() == task.shard.md5


def _fetch(task: Task, client: Client) -> TransferError | Path | None:
    """Fetch a shard and give it its name; returns what has prevented it or, if there was one, the file set aside."""
    try:
        client.fetch_shard(task.shard, task.partial)
    except TransferError as error:
        return error
    aside = _set_aside(task.path) if os.path.lexists(task.path) else None
    task.partial.replace(task.path)
    return aside


def _set_aside(path: Path) -> Path:
    """Give a file another name that is free; returns it."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}{ASIDE}{'' if number == 1 else f'-{number}'}")):
        number += 1
    return path.rename(aside)
