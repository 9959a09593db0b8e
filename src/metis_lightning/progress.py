"""A progress bar in a terminal, and a line now and then where there is none.

    with Progress("evaluate tse", "utterances", total=len(jobs)) as progress:
        progress.step(job.system)        # one more, with a note beside the count
        progress.step(amount=2.5)        # seconds of sound, or any other amount
        progress.say(f"metis-…")         # a line that does not break the bar

`tracked(items, "read librimix", "utterances")` counts what a loop goes through. Everything goes to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Seconds between two lines: short work says nothing, and logs stay short.
_PAUSE = 10.0
_LAYOUT = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"


class Progress(AbstractContextManager["Progress"]):
    """Counts work as it is done.

    label, unit, total: what is done, what is counted, and how much of it there is; None if that is not known before.
    leave, delay: whether the bar stays when all is done, and the seconds before it shows.
    silent: whether nothing at all is shown, as in all processes but the first.
    """

    def __init__(
        self,
        label: str,
        unit: str,
        total: float | None = None,
        leave: bool = True,
        delay: float = 0.0,
        silent: bool = False,
    ) -> None:
        self._label, self._unit, self._total, self._silent = label, unit, total, silent
        self._done, self._last_line = 0.0, time.monotonic()
        self._bar: tqdm[Any] = tqdm(
            # A total of nothing would be an unknown one.
            total=None if total is None else max(total, 1e-9),
            unit=unit,
            desc=label,
            leave=leave,
            delay=delay,
            disable=True if silent else None,
            bar_format=None if total is None else _LAYOUT,
        )

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def step(self, note: str = "", amount: float = 1) -> None:
        """Count one more, or an amount, with a note beside the count."""
        self._done += amount
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(amount)
        # Away from a terminal tqdm turns itself off, and counts nothing.
        if self._bar.disable and not self._silent and time.monotonic() - self._last_line > _PAUSE:
            self._last_line = time.monotonic()
            of = "" if self._total is None else f"/{self._total:.0f}"
            print(f"{self._label}: {self._done:.0f}{of} {self._unit} {note}".rstrip(), file=sys.stderr)

    def say(self, *messages: str) -> None:
        """Print lines on standard error without breaking the bar."""
        for message in messages:
            self._bar.write(message, file=sys.stderr)


def tracked(items: Collection[Item], label: str, unit: str, leave: bool = False, delay: float = 2.0) -> Iterator[Item]:
    """Yield items and count them; each counts when the next is asked for."""
    with Progress(label, unit, len(items), leave, delay) as progress:
        for item in items:
            yield item
            progress.step()
