"""YAML of strangers: the right values, or one line in bounded time that quotes nothing of the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import dump_yaml, load_yaml, read_yaml

SCALARS = {
    "a": 1e-4,
    "b": "1e-4",
    "c": "0:30:00",
    "d": "1:30:00",
    "e": "2024-01-01",
    "f": "yes",
    "g": True,
    "h": None,
    "i": "null",
    "j": [1, -2.5, "3"],
    "k": float("inf"),
    "l": "äöü: #",
    "m": {0: 4},
    "n": "0x1f",
    "o": 1e-12,
    "p": "",
}


def bomb(levels: int = 9) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def test_values_come_back_as_they_are_here_and_in_the_config_parser() -> None:
    text = dump_yaml(SCALARS)
    assert load_yaml(text, "x") == SCALARS
    parser = ArgumentParser()
    parser.add_argument("--cfg", type=dict)
    assert parser.parse_args([f"--cfg={text}"]).cfg == SCALARS


def test_numbers_are_what_everyone_writes() -> None:
    values = load_yaml("[1e-4, 1E5, 1.5, .5, 010, 0x1f, 1_000, 1:30:00, 2024-13-45, on, ~]", "x")
    assert values == [1e-4, 1e5, 1.5, 0.5, 8, 31, 1000, "1:30:00", "2024-13-45", True, None]


def test_aliases_repeat_values_within_bounds() -> None:
    text = "a: &a {x: 1, y: [2]}\nb: *a\nc: {<<: *a, y: 3}\n"
    assert load_yaml(text, "x") == {"a": {"x": 1, "y": [2]}, "b": {"x": 1, "y": [2]}, "c": {"x": 1, "y": 3}}
    with pytest.raises(UserError, match=r"x: line 2: aliases .* are not allowed here"):
        load_yaml(text, "x", aliases=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "stands for more than 100,000 values"),
        ("a0: &a0 {k: v, l: v}\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 49)), "stands"),
        ("a: &a [*a]", "line 1: a value that contains itself"),
        ("a: &a {b: {<<: *a}}", "contains itself"),
        ("[" * 200_000, "nest"),
        ("{a: " * 3000, "nest"),
        ("- " * 3000 + "a", "nest"),
        ("a: 1\nb: 2\na: 3\n", "line 3: a key that its mapping has already"),
        ("t: {m: 1,\n m: 1}", "line 2: a key that its mapping has already"),
        (f"a: {'9' * 5000}", "a number of 5,000 digits"),
        (f"a: {'9' * 500}{':59' * 300_000}", "a number of 900,500 digits"),
        ("a: !!python/object/apply:os.system [secret]", "not YAML"),
        ("a: *secret", "not YAML"),
        ("secret: [unclosed", "not YAML"),
        ("a: !!int secret", "not YAML"),
        ("a: !!timestamp 2024-13-45", "not YAML"),
        ("a: !!binary secret!", "not YAML"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("a: \x00secret", "not YAML"),
        ("? [secret]\n: 1", "not YAML"),
        ('a: "\\qsecret"', "not YAML"),
    ],
)
@pytest.mark.timeout(10)
def test_what_is_refused_is_one_line_without_the_files_words(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_yaml(text, "x.yaml")
    assert str(error.value).startswith("x.yaml: ")
    assert message in str(error.value)
    assert "secret" not in str(error.value)
    assert len(str(error.value)) < 150


@pytest.mark.timeout(10)
def test_files_that_are_none_or_too_large_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("a: 1\n" + "# filler\n" * 200_000)
    (tmp_path / "latin").write_bytes(b"a: \xe9")
    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbfa: 1")
    for name, message in (
        ("pipe", "not a plain file"),
        (".", "not a plain file"),
        ("gone", "no such file"),
        ("large", "larger than 1,000,000 bytes"),
        ("latin", "not UTF-8 text"),
    ):
        with pytest.raises(UserError, match=message):
            read_yaml(tmp_path / name)
    assert read_yaml(tmp_path / "mark") == {"a": 1}


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "index.yaml").write_text(yaml.safe_dump(SCALARS))
    assert read_yaml(tmp_path / "index.yaml", aliases=False) == SCALARS | {"b": 1e-4}
