"""Protocols: all that decides the numbers of a run, its fingerprint, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Written down for the reader alone: models, files and rules, which have hashes and names, decide the numbers.
_PACKAGES = "packages"
_RECORDED = ("version", "fingerprint")

# Parts that may differ between the rows of one table: they tell rows apart, not columns. Seeds are the systems' own;
# runs of earlier versions have them beside.
_PER_RUN = ("systems", "seeds")

# Parts that have an entry for each test set.
_PER_TEST_SET = {"ids", "trials", "sizes", "test_sets"}

# Hashes and sizes of a test set; the rest says in clear which variant of a corpus it is.
_HASHED = {"reader", "trials", "texts", "audio", "samples"}

# Differences of a protocol, and values of a list, that a message shows.
NUM_SHOWN = 4


@dataclass(frozen=True)
class TestSetProtocol:
    """All that decides the numbers on one test set: a run's protocol without its systems and its other test sets.

    `mark` is its fingerprint, `settings` are those that fit in a line of text. `size` is of the whole test set; None if
    a run of an earlier version does not say.
    """

    __test__ = False  # not a pytest class

    mark: str
    settings: Mapping[str, Any]
    run_fingerprint: str
    size: int | None = None


@dataclass(frozen=True)
class Protocol:
    """The content of a run's `protocol.json`, whose fields are those of the version that wrote it."""

    content: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the file's content, which has the fingerprint, too."""
        return {**self.content, "fingerprint": fingerprint(self.content)}

    @classmethod
    def from_json(cls, content: object) -> Protocol:
        """Return the protocol of a file's content.

        Raises:
            TypeError: it is no mapping.
        """
        if not isinstance(content, dict):
            raise TypeError("not the protocol of a run")
        return cls(content)

    def identity(self, system: str) -> Mapping[str, Any]:
        """Return what decides a system's output; nothing if the protocol does not say."""
        systems = self.content.get("systems")
        identity = systems.get(system) if isinstance(systems, dict) else None
        return identity if isinstance(identity, dict) else {}

    def of_test_set(self, test_set: str) -> TestSetProtocol:
        """Return what decides the numbers on one test set."""
        content = self.content
        decides = {key: value for key, value in content.items() if key not in _PER_RUN}
        for key in _PER_TEST_SET & content.keys():
            lists = content[key]
            decides[key] = {test_set: lists.get(test_set)} if isinstance(lists, dict) else lists
        # Lists and records do not fit in a line; they are in the mark.
        plain = {key: value for key, value in content.items() if isinstance(value, (str, int, float))}
        settings = {key: value for key, value in plain.items() if key not in ("fingerprint", "seeds")}
        test_sets = content.get("test_sets")
        variant = test_sets.get(test_set) if isinstance(test_sets, dict) else None
        if isinstance(variant, dict):
            settings |= {key: value for key, value in variant.items() if key not in _HASHED}
        metrics = content.get("metrics")
        if isinstance(metrics, dict) and isinstance(metrics.get("protocol"), str):
            settings["metrics"] = metrics["protocol"]
        size = content.get("sizes", {}).get(test_set)
        return TestSetProtocol(fingerprint(decides), settings, str(content.get("fingerprint", "unknown")), size)


def fingerprint(content: Mapping[str, Any]) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of what decides in a protocol.

    >>> fingerprint({"task": "se", "packages": {"numpy": "2.4.5"}}) == fingerprint({"task": "se"})
    True
    """
    text = json.dumps(_deciding(content, _RECORDED), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def protocol_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the values that two protocols differ in, as "where: old -> new".

    >>> protocol_differences({"test_sets": {"a": {"mode": "min"}}}, {"test_sets": {"a": {"mode": "max"}}, "task": "se"})
    ['task: nothing -> se', 'test_sets.a.mode: min -> max']
    """
    return list(_differences(_deciding(old, _RECORDED), _deciding(new, _RECORDED), ""))


def _deciding(value: object, hidden: tuple[str, ...] = ()) -> object:
    """Return a part of a protocol without versions of packages, at any depth."""
    if isinstance(value, Mapping):
        return {key: _deciding(part) for key, part in value.items() if key not in (_PACKAGES, *hidden)}
    return [_deciding(part) for part in value] if isinstance(value, (list, tuple)) else value


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
    if isinstance(value, (list, Mapping)) and len(value) > NUM_SHOWN:
        return f"{len(value)} values"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text
