"""How far a run is: a bar of seconds on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

_QUIET_SECONDS = 15.0


class Progress:
    """Counts seconds of sound out of those that are to be made.

    Args:
        total: seconds of all results, as far as they are known.
        name: of what is done.
    """

    def __init__(self, total: float, name: str) -> None:
        self.total, self.name, self.made = total, name, 0.0
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
        self._bar: tqdm[Any] = tqdm(total=max(total, 1e-9), desc=name, disable=None, bar_format=layout)
        self._spoken = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, seconds: float) -> None:
        """Count what was made."""
        self.made += seconds
        self._bar.update(seconds)
        if self._bar.disable and time.monotonic() - self._spoken > _QUIET_SECONDS:
            self._spoken = time.monotonic()
            print(f"{self.name}: {self.made:.0f} of {self.total:.0f} s of sound", file=sys.stderr)

    def say(self, message: str) -> None:
        """Print a line on standard error without breaking the bar."""
        self._bar.write(message, file=sys.stderr)
