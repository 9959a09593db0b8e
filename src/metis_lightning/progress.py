"""A bar in a terminal, and a line now and then where there is none."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

# Seconds between lines.
_PAUSE = 10.0


class Progress:
    """Counts work as it is done; a context manager."""

    def __init__(self, about: str, unit: str, total: int | None = None, leave: bool = True) -> None:
        """Say what is counted; `leave` keeps the bar when all is done."""
        self._bar = tqdm(total=total, unit=unit, desc=about, leave=leave, disable=None)
        self._about, self._unit, self._total, self._done = about, unit, total, 0
        self._told = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def step(self, note: str = "") -> None:
        """Count one more, with a note beside the count."""
        self._done += 1
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update()
        # A bar that is off says nothing.
        if self._bar.disable and time.monotonic() - self._told > _PAUSE:
            self._told = time.monotonic()
            of = "" if self._total is None else f"/{self._total}"
            print(f"{self._about}: {self._done}{of} {self._unit} {note}".rstrip(), file=sys.stderr)
