"""Reads JSON and YAML that others wrote: plain values, in bounded time and memory, or one reason why not.

A few nested aliases in YAML may stand for more than any machine holds: events are surveyed before values are built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metis_lightning.errors import UserError


def load_json(text: str | bytes) -> Any:  # noqa: ANN401  what the text holds
    r"""Return what a JSON text holds; a `ValueError` if it is no JSON or UTF-8, too deep, or not to be held.

    That is a number too long to read, or half of a sign (a lone surrogate, such as `"\ud83d"`).
    """
    try:
        plain = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(plain.removeprefix("\ufeff"))
        if "\\u" in plain:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a sign (a lone surrogate), which no text can hold") from error
    except RecursionError as error:
        raise ValueError("not JSON (nested too deep)") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    return value


def finite(value: object) -> float | None:
    """Return a finite number as a float; None if it is none, or no float can hold it.

    >>> finite(3), finite(10**400), finite("3"), finite(float("nan"))
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared exactly, whatever the size of an int.
    return float(value) if -1e308 <= value <= 1e308 else None


MAX_BYTES = 1_000_000
MAX_DEPTH = 50
# Those that a file may stand for, each alias counted as all that it repeats.
MAX_VALUES = 100_000
# A plain scalar of these could be a number; Python's time to read one grows with the square of its length.
_LONG_NUMBER = re.compile(r"[-+.:_0-9A-Fa-fxXobOB]{1000,}")
# Words of a message that may be the file's own.
_QUOTED = re.compile(r" ?'(?!<)[^']*\w[^']*'")

_INT, _FLOAT, _TIME = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))
_WHOLE = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_REAL = re.compile(
    r"""(?:[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+
    |[-+]?[0-9][0-9_]*\.[0-9_]*
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_DIGITS = list("-+.0123456789")

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """Numbers as everyone writes them: 1e-4 is one, 0:30:00 and 2024-01-01 are text (YAML 1.1 has it otherwise)."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT, _TIME)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that any reader would take for something else."""


_Loader.add_implicit_resolver(_INT, _WHOLE, _DIGITS)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(_FLOAT, _REAL, _DIGITS)


def read_yaml(path: Path, aliases: bool = True) -> Any:  # noqa: ANN401  what the file holds
    """Return what a YAML file holds, see `load_yaml`. A `UserError` if it is unreadable, no YAML, or too large."""
    if not path.is_file():
        raise UserError(f"{path}: {'not a plain file' if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, which no such file needs to be")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason})") from error
    return load_yaml(text, str(path), aliases)


def load_yaml(text: str, source: str, aliases: bool = True) -> Any:  # noqa: ANN401  what the text holds
    """Return what a YAML text holds: plain values only, which with `aliases` it may repeat by name (`*name`).

    A `UserError`, which names the `source` and quotes nothing of it, if it is no YAML, too deep or large, or ambiguous.
    """
    try:
        _Survey(source, aliases).look_through(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{source}: {line}not YAML ({_QUOTED.sub('', error.problem or 'unreadable')})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{source}: not YAML (a value or character that it cannot hold)") from error


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Return the YAML text of plain values that `load_yaml` and the config parser read back as they are."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


@dataclass
class _Level:
    """A list or mapping that is open: its anchor, the values it stands for so far, and the keys of a mapping."""

    anchor: str | None
    values: int = 1
    keys: set[str] | None = None
    expects_key: bool = True


@dataclass
class _Survey:
    source: str
    aliases: bool
    sizes: dict[str, int] = field(default_factory=dict)
    levels: list[_Level] = field(default_factory=list)

    def look_through(self, text: str) -> None:
        """Refuse a text that would cost more than it should; see `load_yaml`."""
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.CollectionStartEvent):
                keys: set[str] | None = set() if isinstance(event, yaml.MappingStartEvent) else None
                self.levels.append(_Level(event.anchor, keys=keys))
                if len(self.levels) > MAX_DEPTH:
                    raise UserError(f"{self.source}: line {line}: nested deeper than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                closed = self.levels.pop()
                self._add(closed.values, closed.anchor, line)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event.anchor, line)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event, line)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        if event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
            raise UserError(f"{self.source}: line {line}: a number of {len(event.value):,} digits")
        inner = self.levels[-1] if self.levels else None
        # `<<` takes in other mappings, and may do so more than once.
        if inner is not None and inner.keys is not None and inner.expects_key and event.value != "<<":
            if event.value in inner.keys:
                raise UserError(f"{self.source}: line {line}: a key that its mapping has already; keep one of them")
            inner.keys.add(event.value)
        self._add(1, event.anchor, line)

    def _alias(self, anchor: str, line: int) -> None:
        if not self.aliases:
            raise UserError(f"{self.source}: line {line}: aliases (*name) are not allowed here; write the value out")
        if any(level.anchor == anchor for level in self.levels):
            raise UserError(f"{self.source}: line {line}: a value that contains itself")
        self._add(self.sizes.get(anchor, 1), None, line)

    def _add(self, values: int, anchor: str | None, line: int) -> None:
        if anchor is not None:
            self.sizes[anchor] = values
        if not self.levels:
            return
        inner = self.levels[-1]
        inner.values += values
        inner.expects_key = not inner.expects_key
        if inner.values > MAX_VALUES:
            raise UserError(f"{self.source}: line {line}: stands for more than {MAX_VALUES:,} values")
