"""Commands: a class of options, the function that takes them, and a parser built from the class's fields."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import jsonargparse

from metis_lightning.errors import UserError
from metis_lightning.options import PROGRAM, CommandOptions, flag

# What jsonargparse says of a value: the field, its element in a list, and what was given.
_WRONG_VALUE = re.compile(r'Parser key "(\w+)".*?(?:Given value|Got value): (.*)', re.DOTALL)
_UNKNOWN = re.compile(r"unrecognized arguments: (.*)|Option '(\w+)' is not accepted")
_REQUIRED = "the following arguments are required: "
_KINDS = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Command:
    """A command of the command line, by the options that it takes.

    run: `module:function`, imported only to be called with the options.
    about, examples, note: for the help; the first two stand in the overview, too, with one example.
    takes_config: whatever is none of its options is a config or an option of `fit`; the function gets that, too.
    """

    options: type[CommandOptions]
    run: str
    about: str
    examples: tuple[str, ...]
    takes_config: bool = False
    note: str = ""

    def __call__(self, name: str, args: Sequence[str]) -> None:
        """Parse the words after the name, and run."""
        parser = CommandParser(name, self)
        own, config = parser.split(args) if self.takes_config else (list(args), [])
        # Parsed first: help and mistakes need no import.
        options = parser.options(own)
        if absent := {module: extra for module, extra in options.packages().items() if find_spec(module) is None}:
            extras = ",".join(dict.fromkeys(absent.values()))
            raise UserError(f"{name} needs {', '.join(absent)}: pip install 'metis-lightning[{extras}]'")
        module, _, function = self.run.partition(":")
        run: Callable[..., None] = getattr(import_module(module), function)
        run(options, config) if self.takes_config else run(options)


class CommandParser(jsonargparse.ArgumentParser):
    """The parser of a command's options, whose errors are `UserError`s of one line."""

    def __init__(self, name: str, command: Command) -> None:
        """Add an argument for each field; a command that takes no config of `fit` can have its options in a file."""
        lines = ["examples:", *(f"  {PROGRAM} {name} {example}" for example in command.examples)]
        super().__init__(
            prog=f"{PROGRAM} {name}",
            usage="%(prog)s -c CONFIG [-c OVERLAY ...] [options] [options of fit]" if command.takes_config else None,
            description=command.about,
            epilog="\n".join([*lines, *(["", command.note] if command.note else [])]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._made, self._types = command.options, get_type_hints(command.options)
        if not command.takes_config:
            self.add_argument("--config", action="config", metavar="YAML", help="file of options, by the names below")
        # Field by field, as jsonargparse has no form of `--system A B` for a class's arguments.
        for item in fields(command.options):
            self._add_field(item)

    def _add_field(self, item: Field[Any]) -> None:
        """Add the argument of a field: its type says which values, its metadata how it is typed and explained."""
        about, default, kind = item.metadata["about"], item.default, self._types[item.name]
        settings: dict[str, Any] = {"required": True} if default is MISSING else {"default": default}
        settings |= {"metavar": item.metadata["metavar"]} if item.metadata["metavar"] else {}
        if kind is bool:
            # All of them are off unless given: `--no-controls` is a field of that name.
            settings["action"] = "store_true"
        else:
            settings["type"] = kind
            # `tuple[int, ...]` is any number of values, `tuple[int, int, int]` three.
            if get_origin(_without_none(kind)) is tuple:
                settings["type"], *others = get_args(_without_none(kind))
                settings["nargs"] = "+" if others == [Ellipsis] else 1 + len(others)
                settings["default"] = list(default) if isinstance(default, tuple) else None
            if get_origin(_without_none(settings["type"])) is Literal:
                settings["metavar"] = f"{{{','.join(map(str, get_args(_without_none(settings['type']))))}}}"
            if default not in (MISSING, None, "", ()):
                shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
                about = f"{about} (default: {shown})"
        if item.metadata["repeats"]:
            settings |= {"nargs": 1, "action": "extend"}
        if item.metadata["positional"]:
            # Where it is absent, a file of options may still give it.
            self.add_argument(item.name, **settings | {"nargs": "?", "default": argparse.SUPPRESS}, help=about)
        else:
            self.add_argument(flag(item.name), *item.metadata["aliases"], **settings, help=about)

    def options(self, args: Sequence[str]) -> CommandOptions:
        """Return the options that words describe. A `UserError` for a mistake in them."""
        parsed = vars(self.parse_args(args))
        values = {item.name: parsed[item.name] for item in fields(self._made) if item.name in parsed}
        try:
            # jsonargparse gives lists; the options are frozen.
            return self._made(**{k: tuple(value) if isinstance(value, list) else value for k, value in values.items()})
        except UserError as error:
            self.error(str(error))

    def split(self, args: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the words that are options of this parser with their values, and the others."""
        own, others = list[str](), list[str]()
        target = others
        for word in args:
            if word.startswith("-"):
                # jsonargparse has no `parse_known_args`: whose an option is decides whose the words behind it are.
                target = own if word.partition("=")[0] in self._option_string_actions else others
            target.append(word)
        return own, others

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UserError`: what is wrong, the nearest option or what is allowed, and where to look."""
        if unknown := _UNKNOWN.search(message):
            # The second form is of a key in a file of options.
            word = unknown[1] or flag(unknown[2])
            guess = get_close_matches(word.split()[0], self._option_string_actions, n=1)
            message = f"unrecognized arguments: {word}" + (f"; did you mean {guess[0]}?" if guess else "")
        elif message.startswith(_REQUIRED):
            names = message.removeprefix(_REQUIRED).split(", ")
            message = f"required: {', '.join(map(flag, names))}"
        elif (wrong := _WRONG_VALUE.match(message)) and wrong[1] in self._types:
            kind = _without_none(self._types[wrong[1]])
            kind = get_args(kind)[0] if get_origin(kind) is tuple else kind
            choices = ", ".join(map(str, get_args(kind)))
            wanted = f"one of {choices}" if choices else _KINDS.get(kind, "a text")
            message = f"{flag(wrong[1])}: must be {wanted}, not {wrong[2]}"
        raise UserError(f"{message} (see: {self.prog} --help)") from ex


def _without_none(kind: Any) -> Any:  # noqa: ANN401  types
    if get_origin(kind) in (Union, UnionType):
        return next(each for each in get_args(kind) if each is not NoneType)
    return kind


def completion_lines(commands: Mapping[str, Command], others: Sequence[str], program: str) -> Iterator[str]:
    """Yield a bash script that completes the program's commands and their options; zsh reads it by `bashcompinit`."""
    firsts = " ".join(dict.fromkeys(name.split()[0] for name in (*others, *commands)))
    yield from ("_metis_lightning() {", '    local words="" current="${COMP_WORDS[COMP_CWORD]}"')
    # By where the word is that is typed, and the two before it.
    yield '    case "$COMP_CWORD/${COMP_WORDS[1]}/${COMP_WORDS[2]}" in'
    yield f'        1/*) words="{firsts}" ;;'
    for family in sorted({name.split()[0] for name in commands if " " in name}):
        seconds = " ".join(name.split()[1] for name in commands if name.startswith(f"{family} "))
        yield f'        2/{family}/*) words="{seconds}" ;;'
    for name, command in commands.items():
        options = (word for word in CommandParser(name, command)._option_string_actions if word.startswith("--"))
        pattern = name.replace(" ", "/") if " " in name else f"{name}/*"
        yield f'        */{pattern}) words="{" ".join(options)}" ;;'
    yield from ("    esac", '    COMPREPLY=($(compgen -W "$words" -- "$current"))', "}")
    yield f"complete -o default -F _metis_lightning {program}"
