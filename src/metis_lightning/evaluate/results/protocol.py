"""A protocol, which is all that decides the numbers of a run: its fingerprint, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

# What is written down for the reader alone: models, files and rules, which have hashes and names, decide the numbers.
_PACKAGES = "packages"

_RECORDED = ("version", "fingerprint")

_SHOWN = 4


def deciding(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return a protocol without versions of packages, at any depth, and without its own fingerprint."""
    return {key: _deciding(value) for key, value in protocol.items() if key not in (_PACKAGES, *_RECORDED)}


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of what decides in a protocol.

    >>> fingerprint({"task": "se", "packages": {"numpy": "2.4.5"}}) == fingerprint({"task": "se"})
    True
    """
    text = json.dumps(deciding(protocol), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the values that two protocols differ in, as "where: old -> new".

    >>> differences({"test_sets": {"a": {"mode": "min"}}}, {"test_sets": {"a": {"mode": "max"}}, "task": "se"})
    ['task: nothing -> se', 'test_sets.a.mode: min -> max']
    """
    return list(_differences(deciding(old), deciding(new), ""))


def said(found: list[str]) -> str:
    """Return differences in a line; the first few of many."""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{'; '.join(found[:_SHOWN])}{more}"


def _deciding(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _deciding(each) for key, each in value.items() if key != _PACKAGES}
    return [_deciding(each) for each in value] if isinstance(value, (list, tuple)) else value


def _differences(old: object, new: object, where: str) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{where}[{number}]")
    else:
        yield f"{where}: {_shown(old)} -> {_shown(new)}"


def _shown(value: object) -> str:
    """Return a value in a few characters."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, Mapping)) and len(value) > _SHOWN:
        return f"{len(value)} values"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text
