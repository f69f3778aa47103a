"""Seeds in chunks, over processes."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_parts(run: Callable[[range], T], seeds: range, size: int, jobs: int) -> Iterator[T]:
    """What `run` makes of each chunk of so many seeds, in their order, by so many processes.

    What has not begun when nobody asks any further is left out.
    """
    chunks = [seeds[at : at + size] for at in range(0, len(seeds), size)]
    if jobs == 1:
        yield from map(run, chunks)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(run, chunks)
        finally:
            pool.shutdown(cancel_futures=True)
