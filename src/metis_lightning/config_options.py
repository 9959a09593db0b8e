"""Options of a trainer's verb that have to do with what its configs say.

An option that names another class is merged like a config, one that fills a `???` takes its place, and one that stands
before a config that overrules it is refused. The parser sees the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metis_lightning.config_files import Layer
from metis_lightning.errors import UserError
from metis_lightning.merging import ARGUMENTS, CLASS, FILE_ENDINGS, MISSING, Merged, as_class, nested
from metis_lightning.safe_yaml import load_yaml, read_yaml
from metis_lightning.texts import is_unicode


def options_in(words: Sequence[str]) -> Iterator[tuple[str, str, slice]]:
    """Yield key, value and place of every option among the arguments; the value is empty if it has none."""
    for at, word in enumerate(words):
        if word.startswith("--"):
            key, joined, value = word[2:].partition("=")
            follows = not joined and at + 1 < len(words) and not words[at + 1].startswith("--")
            yield key.rstrip("+"), words[at + 1] if follows else value, slice(at, at + 1 + follows)


def refuse_odd_bytes(words: Sequence[str]) -> None:
    """Refuse an option whose value, such as the name of a folder, is not UTF-8: no config can hold it."""
    for key, value, _ in options_in(words):
        if not is_unicode(key + value):
            raise UserError(f"--{key} {value}: not UTF-8, which a run's config.yaml must be; rename it, or link to it")


def refuse_overruled(layer: Layer, words: Sequence[str]) -> None:
    """Refuse an option that a config behind it would overrule."""
    said = set(_keys(layer.content))
    for key, _, _ in options_in(words[: layer.position]):
        own = ".".join(part for part in key.split(".") if part != ARGUMENTS)
        if any(f"{own}.".startswith(f"{other}.") or f"{other}.".startswith(f"{own}.") for other in said):
            raise UserError(f"--{key} stands before {layer.name}, which says otherwise; give options after all configs")


def _keys(content: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    """Yield the keys of a config as options name them."""
    for key, value in content.items():
        own = above if key == ARGUMENTS else f"{above}.{str(key).rstrip('+')}".removeprefix(".")
        if isinstance(value, dict) and value:
            yield from _keys(value, own)
        else:
            yield own


def merge_classes(merged: Merged, words: Sequence[str]) -> Iterator[str]:
    """Merge the options that name a class where the configs name another, and yield the other arguments."""
    taken: set[int] = set()
    for key, value, place in options_in(words):
        parts = key.split(".")
        loaded = _value(value)
        if parts[-1] == CLASS:
            parts, loaded = parts[:-1], {CLASS: loaded}
        where = _find(merged.content, parts)
        if where is not None and isinstance(loaded := as_class(loaded, beside={CLASS: ""}), dict) and CLASS in loaded:
            for part in reversed(where):
                loaded = {part: loaded}
            merged.lay(loaded, f"--{key}")
            taken |= set(range(place.start, place.stop))
    yield from (word for at, word in enumerate(words) if at not in taken)


def _value(text: str) -> Any:  # noqa: ANN401  any value
    """Return what the value of an option holds: of a file its content."""
    if text.endswith(FILE_ENDINGS) and Path(text).is_file():
        return nested(read_yaml(Path(text)), text)
    try:
        return nested(load_yaml(text, "an option"), "an option")
    except UserError:
        return text  # The parser, which knows what it expects, says what is wrong.


def _find(content: Any, parts: Sequence[str]) -> list[str] | None:  # noqa: ANN401  any value
    """Return the keys that lead to the class that an option names; None if the configs have none there."""
    where: list[str] = []
    for part in parts:
        if isinstance(content, dict) and part not in content and isinstance(content.get(ARGUMENTS), dict):
            where, content = [*where, ARGUMENTS], content[ARGUMENTS]
        if not isinstance(content, dict) or part not in content:
            return None
        where, content = [*where, part], content[part]
    return where if isinstance(content, dict) and CLASS in content else None


def fill_missing(content: Any, options: list[str], above: tuple[str, ...] = ()) -> Iterator[str]:  # noqa: ANN401  any value
    """Put options in the place of `???`, taking them from the list, and yield those that are not given."""
    for key, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        own = (*above, str(key)) if key != ARGUMENTS else above
        if isinstance(value, dict | list):
            yield from fill_missing(value, options, own)
        elif value == MISSING and isinstance(content, dict):
            named = [(option, given, place) for option, given, place in options_in(options) if _covers(option, own)]
            exact = [(given, place) for option, given, place in named if _parts(option) == own]
            if exact:
                content[key], place = _value(exact[-1][0]), exact[-1][1]
                del options[place]
            else:
                del content[key]
                if not named:
                    yield f"--{'.'.join(own)}"


def _parts(option: str) -> tuple[str, ...]:
    return tuple(part for part in option.split(".") if part not in (ARGUMENTS, CLASS))


def _covers(option: str, key: tuple[str, ...]) -> bool:
    """Tell whether an option gives the value of a key, or of what the key lies in."""
    return key[: len(_parts(option))] == _parts(option)
