"""How long work tells that it goes on: lines handed to a function that shows or keeps them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence

Say = Callable[[str], None]
"""Takes one line, without its end."""


def tell(line: str) -> None:
    """Show a line where talk goes: stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def in_chunks(
    keys: Sequence[str], what: str, say: Say, *, chunk: int = 1024
) -> Iterable[list[str]]:
    """Parts of a long list of work, each announced when it is done, with rate and time left."""
    started = time.monotonic()
    for first in range(0, len(keys), chunk):
        yield list(keys[first : first + chunk])
        done = min(first + chunk, len(keys))
        spent = time.monotonic() - started
        rate = done / spent if spent else 0.0
        left = f"ETA {(len(keys) - done) / rate:.0f} s" if rate else ""
        say(f"{what} {done}/{len(keys)}  {rate:.0f}/s  {left}".rstrip())
