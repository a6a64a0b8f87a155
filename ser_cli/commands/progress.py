"""How far something is: a bar on a terminal, nothing off it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ser_cli.console import Console


@contextmanager
def counting_bar(console: Console, title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how many of how many are done; nothing off a terminal."""
    if not console.draws_bars:
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(desc=title, unit=unit, unit_scale=unit == "B", leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield advance
