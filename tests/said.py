"""What configs say, read by other means than the package's: for comparing with what comes out of the parser."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

Key = tuple[str, ...]
MISSING = "???"


def chain(file: Path) -> list[dict[str, Any]]:
    """A config and what it is based on, lowest first."""
    content = yaml.safe_load(file.read_text())
    base = content.pop("based_on", None)
    return [*(chain(file.parent / base) if base else []), content]


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def layers(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the files say to the module that they name last, lowest first; a base that was read is not read again.

    A row of experiments/ has the last word, wherever it stands.
    """
    contents: list[dict[str, Any]] = []
    for file in sorted(files, key=lambda file: file.startswith("experiments/table")):
        own = chain(Path(file))
        if file.startswith("experiments/table"):
            at = next((i for i, content in enumerate(contents) if "by_model" in content), len(contents))
            contents[at:at] = [content for content in own[:-1] if content not in contents]
            own = own[-1:]
        contents += [content for content in own if content not in contents]
    module = [content["model"]["class_path"] for content in contents if "class_path" in content.get("model", {})][-1]
    for content in contents:
        spoken = content.pop("by_model", {})
        yield content
        for ancestor in reversed(named(module).__mro__):
            yield spoken.get(f"{ancestor.__module__}.{ancestor.__qualname__}", {})


def leaves(content: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value of a config that is no mapping."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*key, name))
        else:
            yield (*key, name), value


def takes(cls: Any, argument: str) -> bool:
    """Whether a class has an argument; what its `**kwargs` are given to, its parent says."""
    for ancestor in cls.__mro__:
        if "__init__" in vars(ancestor):
            parameters = inspect.signature(ancestor.__init__).parameters
            if argument in parameters:
                return True
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                return False
    return False


def expected(files: Sequence[str]) -> dict[Key, Any]:
    """The last value that the files give to each key; of arguments those that the last class takes."""
    values: dict[Key, Any] = {}
    for layer in layers(files):
        for key, value in leaves(layer):
            if key[:2] == ("trainer", "callbacks") and "callbacks" not in key[2:] and len(key) > 2:
                listed = next(each for each in values[key[:2]] if each["class_path"].endswith(key[2]))
                listed["init_args"] = {**listed["init_args"], key[3]: value}
            elif key[-1].endswith("+"):
                values[*key[:-1], key[-1][:-1]] = [*values[*key[:-1], key[-1][:-1]], *value]
            elif value != MISSING or values.get(key) is None:
                # A mapping takes the place of a single value.
                for end in range(1, len(key)):
                    values.pop(key[:end], None)
                values[key] = value
    return {key: value for key, value in values.items() if all(taken(values, key))}


def taken(values: dict[Key, Any], key: Key) -> Iterator[bool]:
    """For each class that a key lies in, whether it takes the argument that the key belongs to."""
    for at, part in enumerate(key[:-1]):
        if part == "init_args" and (path := values.get((*key[:at], "class_path"))):
            yield takes(named(path), key[at + 1])


def found(config: Any, key: Key) -> Any:
    for part in key:
        config = config[int(part) if isinstance(config, list) else part]
    return config


def resolved(value: Any, config: Any) -> Any:
    """A value with its references in the place of what they refer to."""
    if isinstance(value, dict):
        return {name: resolved(each, config) for name, each in value.items()}
    if isinstance(value, list):
        return [resolved(each, config) for each in value]
    if isinstance(value, str) and (whole := re.fullmatch(r"\$\{([^}]*)\}", value)):
        return found(config, tuple(whole[1].split(".")))
    return (
        re.sub(r"\$\{([^}]*)\}", lambda m: found(config, tuple(m[1].split("."))), value)
        if "${" in str(value)
        else value
    )


def agrees(said: Any, is_so: Any) -> bool:
    """Whether a value is what was said, which need not be all of it: defaults come on top."""
    if isinstance(said, dict):
        return all(agrees(value, is_so.get(name)) for name, value in said.items())
    if isinstance(said, list):
        return len(said) == len(is_so) and all(map(agrees, said, is_so))
    return said in (MISSING, is_so)


def disagreements(files: Sequence[str], config: Any, options: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Keys of which a config that was parsed says something else than its files, and both values.

    `options` are keys that were given beside the files.
    """
    values = {key: value for key, value in expected(files).items() if ".".join(key) not in options}
    assert len(values) > 25
    assert ("trainer", "max_steps") in values
    wrong = {}
    for key, value in values.items():
        said, is_so = resolved(value, config), None if value == MISSING else found(config, key)
        if not agrees(said, is_so):
            wrong[".".join(key)] = (said, is_so)
    return wrong
