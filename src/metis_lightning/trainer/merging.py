"""Configs laid over each other as data.

Mappings are merged key by key, anything else takes the place of what it is laid over. `key+` adds to the list `key`,
and `key: {Name: …}` speaks to the class of that name in it. A class is a mapping of `class_path` and `init_args`: one
that is laid over another keeps those arguments that it takes too, and what it does not take is noted. The value `???`
is to be given: by a config above or below, or as an option.
"""

from __future__ import annotations

import inspect
import json
import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser

from metis_lightning.errors import UserError
from metis_lightning.renamed_classes import current_class_path

CLASS, ARGUMENTS = "class_path", "init_args"
_MORE = "dict_kwargs"  # arguments that jsonargparse cannot know of
_OF_A_CLASS = {CLASS, ARGUMENTS, _MORE}
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
FILE_ENDINGS = (".yaml", ".yml", ".json")
MISSING = "???"


@dataclass
class Merged:
    """A config, and a line for each setting that was dropped, as a class that was laid above does not take it."""

    content: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def lay(self, above: Mapping[str, Any], name: str) -> None:
        """Lay a config, which messages call `name`, over the others."""
        self.content = self._merge(self.content, dict(above), (), name)

    def _merge(self, below: Any, above: Any, key: tuple[str, ...], name: str) -> Any:  # noqa: ANN401  any value
        below, above = as_class(below, beside=above), as_class(above, beside=below)
        if isinstance(below, list) and isinstance(above, dict) and any(map(_name, below)) and CLASS not in above:
            # A list of classes, and what is said to them by their names.
            for absent in above.keys() - set(map(_name, below)):
                place = ".".join((*key, absent))
                self.dropped.append(f"{name}: {place} is dropped: there is no {absent} in the list below")
            return [self._merge(each, above.get(_name(each), {}), (*key, _name(each)), name) for each in below]
        if not (isinstance(below, dict) and isinstance(above, dict)):
            return above
        # Another class keeps those arguments of the one below that it takes, too.
        if CLASS in above and below.keys() & {ARGUMENTS, _MORE}:
            below = self._taken(below, above, key, name)
        merged = dict(below)
        for own, value in above.items():
            if str(own).endswith("+"):
                # Added to the list, or to what is to be added to a list that is not known yet.
                plain = own.removesuffix("+")
                to = plain if merged.get(plain) is not None else own
                parts = (merged.get(to), value)
                lists = [part if isinstance(part, list) else [part] for part in parts if part is not None]
                merged[to] = [item for part in lists for item in part]
            elif value == MISSING and merged.get(own) is not None:
                # What is to be given has been, by a config below.
                continue
            elif own in merged:
                merged[own] = self._merge(merged[own], value, (*key, str(own)), name)
            else:
                # The list itself replaces what was to be added to a list not known yet.
                merged.pop(f"{own}+", None)
                merged[own] = value
        return merged

    def _taken(self, below: dict[str, Any], above: dict[str, Any], key: tuple[str, ...], name: str) -> dict[str, Any]:
        """Return a class with those of its arguments that the class above takes too; note the others."""
        old = find_class(below[CLASS]) if CLASS in below else None
        new = find_class(above[CLASS], beside=old)
        if new is None or new is old:  # The parser says what is wrong with a class that does not exist.
            return dict(below)
        kept = {}
        for argument, value in {**(below.get(_MORE) or {}), **(below.get(ARGUMENTS) or {})}.items():
            refusal = None if argument in (above.get(ARGUMENTS) or {}) else _refusal(new, argument, value)
            if refusal is None:
                kept[argument] = value
            elif value != MISSING:
                place = ".".join((*key, ARGUMENTS, argument))
                said = json.dumps(value, default=str, ensure_ascii=False)
                self.dropped.append(f"{name}: {place} = {said} is dropped: {new.__qualname__} {refusal}")
        return {CLASS: above[CLASS], ARGUMENTS: kept}


def _name(value: Any) -> str:  # noqa: ANN401  any value
    """Return the short name of a class in a list; empty if the value is none."""
    full = as_class(value, beside={CLASS: ""})
    return str(full[CLASS]).rpartition(".")[2] if isinstance(full, dict) and CLASS in full else ""


def as_class(value: Any, beside: Any) -> Any:  # noqa: ANN401  any value
    """Return the full form of a class that is given in a short one, where a class is expected.

    A name alone is a class without arguments; a mapping of arguments alone belongs to the class that it is laid over.

    >>> as_class("torch.optim.SGD", beside={"class_path": "torch.optim.AdamW"})
    {'class_path': 'torch.optim.SGD'}
    >>> as_class({"lr": 1}, beside={"class_path": "torch.optim.AdamW"})
    {'init_args': {'lr': 1}}
    """
    if not (isinstance(beside, dict) and _OF_A_CLASS & beside.keys()):
        return value
    if isinstance(value, str) and NAME.fullmatch(value) and not value.endswith(FILE_ENDINGS):
        return {CLASS: current_class_path(value)}
    if isinstance(value, dict) and value and not _OF_A_CLASS & {str(key).rstrip("+") for key in value}:
        return {ARGUMENTS: value}
    return value


def _refusal(cls: Any, argument: str, value: Any) -> str | None:  # noqa: ANN401  a class or a function
    if argument not in _add_arguments(ArgumentParser(), cls):
        return f"takes no {argument}"
    if "${" in json.dumps(value, default=str):  # What it refers to is known when everything is merged.
        return None
    # Parsed alone: whether one value fits must not depend on the others, which may be missing here.
    parser = ArgumentParser(exit_on_error=False)
    _add_arguments(parser, cls, skip={name for name in _add_arguments(ArgumentParser(), cls) if name != argument})
    try:
        parser.parse_object({argument: value})
    except ArgumentError:
        return f"takes another kind of {argument}"
    return None


def _add_arguments(parser: ArgumentParser, cls: Any, skip: set[str | int] | None = None) -> list[str]:  # noqa: ANN401
    add = parser.add_class_arguments if inspect.isclass(cls) else parser.add_function_arguments
    return add(cls, skip=skip or set(), fail_untyped=False, sub_configs=True)


def find_class(path: str, beside: Any = None) -> Any:  # noqa: ANN401  a class or a function
    """Return the class of a full name, or of a short one that a class of the same family as `beside` has; else None."""
    module, _, name = str(path).rpartition(".")
    if not module:
        families = getattr(beside, "__mro__", ())[:-1]
        return next((cls for family in families for cls in _family(family) if cls.__name__ == name), None)
    try:
        return getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def _family(cls: type[Any]) -> Iterator[type[Any]]:
    yield cls
    children: list[type[Any]] = cls.__subclasses__()
    for child in children:
        yield from _family(child)


def nested(content: Any, source: str) -> Any:  # noqa: ANN401  any value
    """Return a config with `a.b: 1` written out as `a: {b: 1}`. A `UserError` if a key is said in both forms.

    >>> nested({"trainer.max_steps": 3, "trainer": {"devices": 1}}, "x.yaml")
    {'trainer': {'max_steps': 3, 'devices': 1}}
    """
    if isinstance(content, list):
        return [nested(value, source) for value in content]
    if not isinstance(content, dict):
        return content
    result: dict[Any, Any] = {}
    for key, value in content.items():
        first, dot, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        _join(result, first, nested({rest: value} if dot else value, source), source)
    return result


def _join(into: dict[Any, Any], key: Any, value: Any, source: str) -> None:  # noqa: ANN401  any value
    if key not in into:
        into[key] = value
    elif isinstance(into[key], dict) and isinstance(value, dict):
        for inner, content in value.items():
            _join(into[key], inner, content, source)
    else:
        raise UserError(f"{source}: says {key!r} twice, once with a dot in its name; keep one of them")
