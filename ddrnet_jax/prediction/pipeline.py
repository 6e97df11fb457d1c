"""Stages in threads of their own with bounded queues between them. Order is kept; an error in one ends the others."""

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
DEPTH = 2  # items that wait for a stage: enough for it never to wait, few enough for the memory
_LOOK_S = 0.1  # how often a thread that waits looks if it is still wanted
_LEAVE_S = 2.0  # for a thread to notice that it is not; what a camera holds longer is left behind
_END = object()


@contextlib.contextmanager
def ahead(items: Iterable[Item], *, depth: int = DEPTH, drops: bool = False) -> Iterator[Iterator[Item]]:
    """The items in their order, made in another thread, up to `depth` before they are asked for.

    drops  an item that nobody has asked for makes room for a newer one, instead of keeping it waiting
    An exception of theirs comes in its place.
    """
    made: queue.Queue[Any] = queue.Queue(depth)
    is_over = threading.Event()

    def put(entry: object, *, can_drop: bool) -> None:
        while not is_over.is_set():
            with contextlib.suppress(queue.Full):
                made.put(entry, timeout=0 if can_drop else _LOOK_S)
                return
            if can_drop:
                with contextlib.suppress(queue.Empty):
                    made.get_nowait()

    def make() -> None:
        error = None
        try:
            for item in items:
                put((item, None), can_drop=drops)
                if is_over.is_set():
                    break
        except BaseException as e:  # any, since the thread that asks is to have it
            error = e
        finally:
            if close := getattr(items, "close", None):
                close()
        put((_END, error), can_drop=False)

    def taken() -> Iterator[Item]:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        is_over.set()
        thread.join(_LEAVE_S)


class Behind:
    """Gives items to a function in another thread, in their order; with `behind`."""

    def __init__(self, do: Callable[[Any], object], depth: int):
        self._given: queue.Queue[Any] = queue.Queue(depth)
        self._do = do
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, item: object) -> None:
        """Waits while `depth` items are waiting. Raises what the function raised of an earlier one."""
        self.check()
        self._given.put(item)

    def wait(self) -> None:
        """Until all that was given is done. Raises what the function raised."""
        self._given.join()
        self.check()

    def check(self) -> None:
        """Raises what the function raised."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Waits for what was given."""
        self._given.put(_END)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._given.get()) is not _END:
            try:
                if self._error is None:
                    self._do(item)
            except BaseException as e:  # any, since the thread that gives is to have it
                self._error = e
            finally:
                del item  # which may be large
                self._given.task_done()


@contextlib.contextmanager
def behind(do: Callable[[Any], object], *, depth: int = DEPTH) -> Iterator[Behind]:
    """Another thread does what is put; at the end, also by an error or Ctrl-C, it does the rest before this returns.

    Raises what `do` raises, when the next item is put or at the end.
    """
    stage = Behind(do, depth)
    try:
        yield stage
    finally:
        stage.end()
    stage.check()


def in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, depth: int = DEPTH
) -> Iterator[Result]:
    """function(item) of each in its order, up to `depth` of them begun before they are asked for."""
    begun: collections.deque = collections.deque()
    for item in items:
        begun.append(pool.submit(function, item))
        if len(begun) > depth:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


@contextlib.contextmanager
def together(function: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Iterator[Result]]:
    """function(item) of each in its order; more than one at a time in threads, which end with the context."""
    if count == 1:
        yield map(function, items)
        return
    with ThreadPoolExecutor(count) as pool:
        yield in_order(pool, function, items, depth=count - 1)
