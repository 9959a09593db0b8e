"""What a verb is: its help, its options, and the function that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from metis_lightning.cli.parsing import OneLineParser

PROGRAM = "python -m metis_lightning"


@dataclass(frozen=True)
class Verb:
    """A verb of one or two words.

    name: as it is typed.
    about: one line for the overview and the help.
    examples: of its options; the first stands in the overview.
    add_options: declares the options.
    run: `module:function`, imported only to be called with the options that were parsed.
    takes_config: what is none of its options is a config or an option of `fit`; the function gets that, too.
    note: ends the help.
    """

    name: str
    about: str
    examples: tuple[str, ...]
    add_options: Callable[[argparse.ArgumentParser], None]
    run: str
    takes_config: bool = False
    note: str = ""

    def parser(self) -> OneLineParser:
        """Return the verb's parser."""
        lines = ["examples:", *(f"  {PROGRAM} {self.name} {example}" for example in self.examples)]
        parser = OneLineParser(
            prog=f"{PROGRAM} {self.name}",
            usage="%(prog)s -c CONFIG [-c OVERLAY ...] [options] [options of fit]" if self.takes_config else None,
            description=self.about,
            epilog="\n".join([*lines, *(["", self.note] if self.note else [])]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_options(parser)
        return parser

    def __call__(self, args: Sequence[str]) -> None:
        """Parse the words after the name, and run.

        Raises:
            UserError: for a mistake in them, or whatever the function finds.
        """
        # Parsed first: help and mistakes need no import.
        if self.takes_config:
            options, config = self.parser().parse_known_args(args)
            self._function()(options, config)
        else:
            options = self.parser().parse_args(args)
            self._function()(options)

    def _function(self) -> Callable[..., None]:
        module, _, name = self.run.partition(":")
        function: Callable[..., None] = getattr(import_module(module), name)
        return function
