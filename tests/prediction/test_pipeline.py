"""Stages in threads: order, bounds, dropped items, and an error in each of them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ddrnet_jax.prediction.pipeline import ahead, behind, in_order, together

WAIT_S = 5


def test_items_come_in_order_and_no_more_than_asked_are_made_ahead():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    with ahead(items(), depth=2) as taken:
        for i, item in enumerate(taken):
            assert item == i
            time.sleep(0.002)
            assert len(made) <= i + 1 + 2 + 1, "taken, waiting, and one in hand"
    assert made == list(range(20))


def test_an_error_of_the_items_comes_in_its_place():
    def items():
        yield 1
        yield 2
        raise OSError("gone")

    seen = []
    with pytest.raises(OSError, match="gone"), ahead(items()) as taken:
        seen.extend(iter(taken))
    assert seen == [1, 2]
    with ahead(items()) as taken:
        assert (next(taken), next(taken)) == (1, 2)


def test_items_that_are_not_asked_for_are_closed_in_their_own_thread():
    closed_by = []

    def items():
        try:
            while True:
                yield 0
        finally:
            closed_by.append(threading.current_thread())

    with ahead(items()) as taken:
        next(taken)
    assert len(closed_by) == 1
    assert closed_by[0] is not threading.current_thread()
    assert not closed_by[0].is_alive()


def test_a_newer_item_takes_the_place_of_one_that_nobody_asked_for():
    is_all_made = threading.Event()

    def items():
        yield from range(100)
        is_all_made.set()

    with ahead(items(), depth=1, drops=True) as taken:
        assert is_all_made.wait(WAIT_S), "a slow reader must not keep the items waiting"
        assert list(taken) == [99]


def test_what_is_put_is_done_in_order_and_bounded():
    done, may_go = [], threading.Semaphore(0)

    def do(item):
        may_go.acquire(timeout=WAIT_S)
        done.append(item)

    with behind(do, depth=2) as stage:
        for i in range(3):  # one in hand, two that wait
            stage.put(i)
        late = threading.Thread(target=stage.put, args=(3,))
        late.start()
        late.join(0.05)
        assert late.is_alive(), "the fourth has to wait"
        may_go.release(4)
        late.join(WAIT_S)
        stage.wait()
        assert done == [0, 1, 2, 3]


def put_all(stage, count, error=None):
    for i in range(count):
        stage.put(i)
    if error:
        raise error


def test_an_error_behind_is_raised_to_who_puts_and_nothing_is_done_after_it():
    done = []

    def do(item):
        done.append(item)
        if item == 2:
            raise OSError("full")

    with pytest.raises(OSError, match="full"), behind(do) as stage:
        put_all(stage, 100)
    assert done == [0, 1, 2]
    with pytest.raises(OSError, match="full"), behind(do) as stage:
        stage.put(2)  # the last: it is noticed at the end


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_was_put_is_done_before_an_error_goes_on(error):
    done = []

    def do(item):
        time.sleep(0.005)
        done.append(item)

    with pytest.raises(error), behind(do, depth=3) as stage:
        put_all(stage, 3, error)
    assert done == [0, 1, 2]


def test_a_pool_gives_results_in_order_and_begins_a_few_ahead():
    begun = []

    def slow_first(i):
        begun.append(i)
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    with ThreadPoolExecutor(4) as pool:
        results = in_order(pool, slow_first, range(50), depth=3)
        assert next(results) == 0
        assert len(begun) <= 4
        assert list(results) == [i * i for i in range(1, 50)]


def test_two_are_done_together_where_two_are_asked_for():
    """Each waits for the other: one at a time would never end."""
    both = threading.Barrier(2, timeout=WAIT_S)

    def doubled(i):
        both.wait()
        return 2 * i

    others = set(threading.enumerate())
    with together(doubled, range(6), 2) as results:
        assert list(results) == [0, 2, 4, 6, 8, 10]
    assert set(threading.enumerate()) == others
    with together(lambda i: (i, threading.current_thread()), range(2), 1) as results:
        assert list(results) == [(i, threading.current_thread()) for i in range(2)]
