"""Configs that are laid over others.

The key `based_on` names the config, in the same folder, that a file is laid over, so that the file runs by itself:

    based_on: tse_lora.yaml
    model: {init_args: {lora_rank: 0}}

The key `by_model` says different things to different modules:

    trainer: {precision: bf16-mixed}          # for every module
    by_model:
      package.PretrainModule:                 # for this class and those that derive from it
        model: {init_args: {stage1: {hidden_size: 1536}}}

So one file brings every config to another scale, though the modules' settings have different names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metis_lightning.errors import UserError

KEY = "by_model"
BASE = "based_on"
_OPTIONS = ("-c", "--config")
_JOINED = tuple(f"{option}=" for option in _OPTIONS)


class _Config(NamedTuple):
    """A config among the arguments: what stands there, and what it says."""

    argument: str
    content: Mapping[str, Any]


def resolve_overlays(args: Sequence[str]) -> list[str]:
    """Return the arguments of a trainer's verb with bases in front of what is based on them, and `by_model` resolved.

    The module is the last that a config names. A base that was given already is not laid again. Files with neither key
    stay as they are.

    Raises:
        UserError: if a base is missing, or an overlay by module is given and no config names a module.
    """
    args = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(_JOINED) else [arg])]
    words: list[str | _Config] = []
    given: set[Path] = set()
    for option, value in zip(["", *args], args, strict=False):
        words += _with_bases(value, given) if option in _OPTIONS else [value]
    contents = [word.content for word in words if isinstance(word, _Config)]
    ancestors: list[str] = []
    if any(KEY in content for content in contents):
        named = [path for content in contents if (path := _class_path(content))]
        if not named:
            raise UserError(f"a config with {KEY!r} is laid over another one, which names the module: give that first")
        ancestors = class_names(named[-1])
    return [
        word
        if isinstance(word, str)
        else yaml.safe_dump(said_to(word.content, ancestors), sort_keys=False)
        if KEY in word.content
        else word.argument
        for word in words
    ]


def _with_bases(file: str, given: set[Path]) -> list[str | _Config]:
    """Return a config after `-c` with those it is based on, each behind a `-c` of its own; `given` learns of all."""
    content = _content(file)
    if not content:
        return [_Config(file, content)]
    given.add(Path(file).resolve())
    if BASE not in content:
        return [_Config(file, content)]
    base = Path(file).parent / str(content[BASE])
    if not base.is_file():
        raise UserError(f"{file}: it is {BASE} {content[BASE]!r}, but there is no {base}")
    own = {key: value for key, value in content.items() if key != BASE}
    below = [] if base.resolve() in given else [*_with_bases(str(base), given), _OPTIONS[0]]
    return [*below, _Config(yaml.safe_dump(own, sort_keys=False), own)]


def said_to(overlay: Mapping[str, Any], ancestors: Sequence[str]) -> dict[str, Any]:
    """Return what an overlay says to a class, given its own and its ancestors' names; its own have the last word.

    >>> said_to({"a": 1, "by_model": {"x.Child": {"a": 2}, "x.Other": {"a": 3}}}, ["x.Child", "x.Parent"])
    {'a': 2}
    """
    merged = {key: value for key, value in overlay.items() if key != KEY}
    for name in reversed(ancestors):
        merged = _laid_over(merged, overlay[KEY].get(name, {}))
    return merged


def class_names(path: str) -> list[str]:
    """Return the full names of a class and its ancestors, itself first.

    Raises:
        UserError: if there is no such class.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model: there is no class {path!r} ({error})") from error
    return [f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in found.__mro__]


def _content(file: str) -> dict[str, Any]:
    """Return a config file's content; empty if it is not a readable config, which the parser will say."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _class_path(content: Mapping[str, Any]) -> str | None:
    model = content.get("model")
    return model.get("class_path") if isinstance(model, dict) else None


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two configs merged key by key, the upper one's values first."""
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return {**below, **above, **{key: _laid_over(below[key], above[key]) for key in both}}
