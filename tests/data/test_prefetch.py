"""Prefetching: order, bounds, errors, threads."""

import threading
import time
from contextlib import closing

import pytest

from esv_jax.data.inputs import prefetch


def left_running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def no_threads_left():
    yield
    assert not left_running()


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 4), (4, 2), (3, 100)])
def test_results_are_in_order(workers, ahead):
    def load(k):
        time.sleep(0.002 * (k % 3))
        return k * k

    results = prefetch(range(30), load, workers=workers, ahead=ahead)
    assert list(results) == [k * k for k in range(30)]


def test_nothing_to_load():
    assert list(prefetch([], len)) == []


def test_loads_run_in_parallel_background_threads():
    meeting = threading.Barrier(2, timeout=10)

    def load(k):
        meeting.wait()  # passes only where two loads run at the same time
        return threading.current_thread()

    threads = set(prefetch(range(6), load, workers=2))
    assert len(threads) == 2 and threading.current_thread() not in threads


def test_the_number_of_pending_results_is_bounded():
    lock, started, most = threading.Lock(), [], 0

    def load(k):
        with lock:
            started.append(k)
        return k

    for done, _ in enumerate(prefetch(range(40), load, workers=3, ahead=5)):
        time.sleep(0.002)
        most = max(most, len(started) - done)
    assert len(started) == 40
    assert 2 <= most <= 5 + 1  # and the one at hand


def test_items_are_taken_one_at_a_time_by_the_thread_that_iterates():
    taken = []

    def items():
        for k in range(100):
            assert threading.current_thread() is threading.main_thread()
            taken.append(k)
            yield k

    with closing(prefetch(items(), str, ahead=3)) as results:
        assert not taken
        assert next(results) == "0"
        assert len(taken) == 3


def test_an_error_is_raised_in_place_of_its_result():
    def load(k):
        if k == 5:
            raise ValueError(f"video {k} is damaged")
        return k

    came = []
    with pytest.raises(ValueError, match="video 5 is damaged"):
        for result in prefetch(range(20), load, workers=3, ahead=8):
            came.append(result)
    assert came == [0, 1, 2, 3, 4]


def test_an_error_of_the_items_is_raised_after_earlier_results():
    def items():
        yield from (1, 2)
        raise OSError("the list ends here")

    came = []
    with pytest.raises(OSError, match="the list ends here"):
        for result in prefetch(items(), str):
            came.append(result)
    assert came == ["1", "2"]


@pytest.mark.parametrize("leave", ["break", "raise", "close"])
def test_leaving_early_starts_no_further_loads(leave):
    started = []

    def load(k):
        started.append(k)
        time.sleep(0.005)
        return k

    def run():
        results = prefetch(range(1000), load, workers=2, ahead=6)
        for k in results:
            if k == 3:
                if leave == "break":
                    break
                if leave == "raise":
                    raise RuntimeError("stop")
                results.close()

    if leave == "raise":
        with pytest.raises(RuntimeError, match="stop"):
            run()
    else:
        run()
    assert not left_running()
    seen = len(started)
    time.sleep(0.03)
    assert len(started) == seen <= 3 + 1 + 6


def test_an_unused_iterator_starts_no_threads():
    results = prefetch(range(3), str)
    assert not left_running()
    del results


def test_invalid_numbers_are_refused_immediately():
    with pytest.raises(ValueError, match="workers: expected an integer >= 1"):
        prefetch([], str, workers=0)
    with pytest.raises(TypeError, match="ahead: expected an integer"):
        prefetch([], str, ahead=1.5)
