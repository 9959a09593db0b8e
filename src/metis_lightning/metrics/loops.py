"""Loops: a recogniser that repeats itself has told what its decoder does, not what was said."""

from __future__ import annotations

import zlib

MAX_COMPRESSION_RATIO = 2.4
"""Bytes of the text over bytes that zlib makes of it, above which Whisper's own decoding counts a text as a failure
(Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, section 4.5)."""

MIN_REPEATS = 4
"""Times that a group of words must stand in a row, beside the compression ratio, to be a loop."""

_MAX_GROUP = 16

CAPPED = (
    f"capped at 100%; a loop is a zlib ratio of the normalised hypothesis above {MAX_COMPRESSION_RATIO}, and 1 to "
    f"{_MAX_GROUP} words (or characters of an unspaced text) at least {MIN_REPEATS} times in a row and more often than "
    "in the reference"
)
AS_HEARD = "as heard: no rule"
"""What becomes of loops, for the fingerprint."""


def compression_ratio(text: str) -> float:
    """Return how many times shorter zlib makes the UTF-8 of a text.

    >>> round(compression_ratio("a quick brown fox"), 2)
    0.68
    """
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def longest_run(text: str) -> int:
    """Return how often a group of 1 to 16 words stands in a row at most; of characters if the text has no spaces.

    >>> longest_run("so we go so we go so we go home")
    3
    >>> longest_run("a quick brown fox")
    1
    """
    tokens = text.lower().split()
    if len(tokens) == 1:
        tokens = list(tokens[0])
    return max((_run(tokens, size) for size in range(1, _MAX_GROUP + 1)), default=0)


def loop_in(hypothesis: str, reference: str) -> str | None:
    """Return what is wrong with a hypothesis that repeats itself; None if the reference does so as often.

    Both signs are needed: a long text of few words compresses well, and "no no no no" may have been said.

    >>> loop_in("thanks " * 30, "a quick brown fox")
    'the recogniser loops: 30 repeats in a row, compression ratio 11.7'
    >>> loop_in("no no no no no", "a quick brown fox")
    """
    ratio, run = compression_ratio(hypothesis), longest_run(hypothesis)
    if ratio > MAX_COMPRESSION_RATIO and run >= max(MIN_REPEATS, longest_run(reference) + 1):
        return f"the recogniser loops: {run} repeats in a row, compression ratio {ratio:.1f}"
    return None


def _run(tokens: list[str], size: int) -> int:
    """Return the most repeats in a row of a group of `size` tokens; at least 1 if there are as many tokens."""
    longest = equal = 0
    for here, before in zip(tokens[size:], tokens, strict=False):
        equal = equal + 1 if here == before else 0
        longest = max(longest, equal)
    return 1 + longest // size if len(tokens) >= size else 0
