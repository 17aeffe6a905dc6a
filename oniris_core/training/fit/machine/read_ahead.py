"""Reads the next part of the data while the network works on the present one."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

B = TypeVar("B")


@contextlib.contextmanager
def read_ahead(batch: Callable[[int, int], B], parts: int, wanted: bool) -> Iterator[Callable[[int, int], B]]:
    """Yield a function that gives what `batch(step, part)` gives, for calls in the order of steps and parts.

    Args:
        batch: a function of its arguments.
        parts: of a step.
        wanted: whether to read ahead, in a thread. Where the data lie in memory it would gain nothing.
    """
    if not wanted:
        yield batch
        return
    pool, coming = ThreadPoolExecutor(1), dict[tuple[int, int], Future[B]]()

    def take(step: int, part: int) -> B:
        present = coming.pop((step, part), None) or pool.submit(batch, step, part)
        following = divmod(step * parts + part + 1, parts)
        coming[following] = pool.submit(batch, *following)
        return present.result()

    try:
        yield take
    finally:
        pool.shutdown(cancel_futures=True)
