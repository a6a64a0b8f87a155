"""Something that is done again and again, beside what a block does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(action: Callable[[], bool], every_s: float, name: str) -> Iterator[None]:
    """Do something in a thread every few seconds until the block ends.

    Args:
        action: says whether to go on; raises nothing.
        every_s: seconds between two calls, and before the first.
        name: of the thread.
    """
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every_s) and action():
            pass

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
