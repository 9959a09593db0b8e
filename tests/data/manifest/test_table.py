"""Manifests of which little is kept in memory: the same records as `read_manifest`, at any speed, in any process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.manifest.table import ManifestLines, UtteranceTable, open_manifest, utterance_at_speed
from metis_lightning.errors import UserError
from metis_lightning.files import digest64


def test_a_table_gives_the_records_of_the_manifest(tones: Path) -> None:
    path = tones / "starter.jsonl"
    listed, table = read_manifest(path), open_manifest(path)
    assert isinstance(table.source, ManifestLines)
    assert list(table) == listed
    assert table[-1] == listed[-1]
    assert list(table[2:5]) == listed[2:5]
    assert table.seconds.tolist() == [u.seconds for u in listed]
    assert table.names().tolist() == [digest64(u.id) for u in listed]
    assert list(table.in_split("dev")) == [u for u in listed if u.split == "dev"]
    assert len(table.in_split("nothing")) == 0
    assert table.in_split("nothing").by_speaker() == {}
    assert table.in_split("dev").by_speaker() == {"eve": [0, 1, 2]}
    assert list(table.where(table.seconds <= 1.5)) == [u for u in listed if u.seconds <= 1.5]


def test_speeds_are_those_of_lists(tones: Path) -> None:
    listed = read_manifest(tones / "starter.jsonl")
    table = open_manifest(tones / "starter.jsonl").at_speeds([0.9, 1.0])
    expected = [utterance_at_speed(u, speed) for speed in (0.9, 1.0) for u in listed]
    assert list(table) == expected
    assert table.seconds.tolist() == [u.seconds for u in expected]
    assert table.names().tolist() == [digest64(u.id) for u in expected]
    assert table.by_speaker() == UtteranceTable.of(expected).by_speaker()
    assert set(table.by_speaker()) == {u.speaker for u in expected}


def test_a_table_travels_to_another_process_and_is_small(tones: Path) -> None:
    table = open_manifest(tones / "starter.jsonl")
    first = table[0]
    assert pickle.loads(pickle.dumps(table))[0] == first
    assert table.columns.itemsize <= 48


def test_mistakes_are_named_by_line(
    tmp_path: Path, row: Callable[..., dict], write_manifest: Callable[..., Path]
) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [row("ada", 0), row("bob", 1), row("ada", 0)])
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    with pytest.raises(UserError, match=r"m.jsonl:4: id 'ada_0' occurs already at .*m.jsonl:1"):
        open_manifest(path)
    write_manifest(path, [row("ada", 0), row("bob", 1, path="../x.wav")])
    with pytest.raises(UserError, match=r"m.jsonl:2: path '../x.wav' must be relative"):
        open_manifest(path)
    path.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(UserError, match=r"m.jsonl:1: not UTF-8"):
        open_manifest(path)
    with pytest.raises(UserError, match="no such manifest"):
        open_manifest(tmp_path / "none.jsonl")


def test_blank_lines_and_a_missing_last_newline(
    tmp_path: Path, row: Callable[..., dict], write_manifest: Callable[..., Path]
) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [row("ada", 0), row("bob", 1)])
    path.write_text("\n" + path.read_text().replace("\n", "\n\n", 1).rstrip("\n"))
    assert list(open_manifest(path)) == read_manifest(path)


def test_a_manifest_that_changes_under_a_run_is_found(
    tmp_path: Path, row: Callable[..., dict], write_manifest: Callable[..., Path]
) -> None:
    table = open_manifest(write_manifest(tmp_path / "m.jsonl", [row("ada", 0), row("bob", 1)]))
    write_manifest(tmp_path / "m.jsonl", [row("ada", 0)])
    with pytest.raises(UserError, match="has changed since"):
        table[0]


def test_an_empty_table_has_no_speakers() -> None:
    assert UtteranceTable.of([]).by_speaker() == {}
    assert np.asarray(UtteranceTable.of([]).seconds).shape == (0,)
