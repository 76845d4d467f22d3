"""Results in order, computed ahead of time by threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Output = TypeVar("Output")


def map_ahead(
    function: Callable[[Item], Output],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    initializer: Callable[..., Any] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Output]:
    """`map(function, items)` by `workers` threads, computing at most `ahead` results in advance.

    Threads start with `initializer(*arguments)`. An error is raised in place of its result.
    """
    rest = iter(items)
    with ThreadPoolExecutor(workers, "ahead", initializer, arguments) as pool:
        waiting: deque[Future[Output]] = deque()
        try:
            waiting.extend(pool.submit(function, item) for item in islice(rest, ahead))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
                del result  # it may be large
        finally:
            for future in waiting:
                future.cancel()
