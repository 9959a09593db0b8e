"""A parser whose errors are one line, and the kinds of values that several verbs take."""

from __future__ import annotations

import argparse
from typing import NoReturn

from metis_lightning.errors import UserError

PRECISIONS = ("float32", "bfloat16", "int8")
"""Of a stage's products, as `models.inference.Precision` has them."""


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are `UserError`s: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` with argparse's message and where to look."""
        raise UserError(f"{message} (see: {self.prog} --help)")


def positive(text: str) -> int:
    """Convert an option's text to a whole number of at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def share(text: str) -> float:
    """Convert an option's text to a number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return number


# argparse names the type in its message.
positive.__name__ = "whole number"
share.__name__ = "number"
