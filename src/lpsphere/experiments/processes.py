"""Calls in processes side by side, which end when this one does. Starts processes; what they do is the callers'."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from typing import Any

from lpsphere.training import Interrupted

__all__ = ["pool", "side_by_side"]


def pool(processes: int) -> ProcessPoolExecutor:
    """Processes that do not train on for nobody when the one that started them was killed."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def side_by_side(
    executor: Executor,
    processes: int,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    may_begin: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[int, Future[Any]]]:
    """Call a function for each of some arguments, as many at a time as there are processes.

    Args:
        executor: What `pool` returned.
        processes: How many it has. More calls than that would wait in its queue, where nothing calls them back.
        function: Of a module, to reach other processes.
        calls: The arguments of each call.
        may_begin: Asked before each call; when it says no, those under way come to their end and no other begins.

    Yields:
        The place of a call in ``calls`` and its future, as they end. None begins after one that Ctrl-C has stopped.
    """
    waiting, under_way = deque(enumerate(calls)), dict[Future[Any], int]()
    stopped = False
    while under_way or (waiting and may_begin() and not stopped):
        while waiting and len(under_way) < processes and may_begin() and not stopped:
            place, arguments = waiting.popleft()
            under_way[executor.submit(function, *arguments)] = place
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            stopped = stopped or isinstance(future.exception(), Interrupted | KeyboardInterrupt)
            yield under_way.pop(future), future


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_its_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_its_end, daemon=True).start()
