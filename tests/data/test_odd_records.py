"""One odd record or name is a fault or one line, and the others go on, in bounded time and memory."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from metis_lightning.cli import main as cli
from metis_lightning.cli.main import explain_killed_worker
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.manifest.table import open_manifest
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.recipes.se import RecordingFolder, SeRecipe
from metis_lightning.errors import UserError
from odd_audio import LYING, RATE, apple_double, encoded, make_pipe, voice

NUMBER = "1" + "0" * 400
ODD_JSON = {
    "half an emoji": '{"id": "ID", "text": "good \\ud83d morning", "duration": 1.0, "speaker": "s", "language": "en"}',
    "half as a key": '{"id": "ID", "\\udc00": "a", "text": "a", "duration": 1.0, "speaker": "s", "language": "en"}',
    "a long duration": f'{{"id": "ID", "text": "a", "duration": {NUMBER}, "speaker": "s", "language": "en"}}',
    "no duration": '{"id": "ID", "text": "a", "duration": NaN, "speaker": "s", "language": "en"}',
    "a longer number": f'{{"id": "ID", "text": "a", "duration": {NUMBER * 20}, "speaker": "s", "language": "en"}}',
    "a long quality": f'{{"id": "ID", "text": "a", "dnsmos": {NUMBER}, "speaker": "s", "language": "en"}}',
    "deep": "[" * 200_000,
    "deep within": '{"id": ' + '{"a":' * 100_000,
    "a list": "[1]",
    "latin": b'{"id": "ID", "text": "caf\xe9", "speaker": "s", "language": "en"}',
    "an id of 300": '{"id": "ID", "text": "a", "duration": 1.0, "speaker": "' + "s" * 300 + '", "language": "en"}',
}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def fine(key: str) -> bytes:
    return json.dumps(
        {"id": key, "text": "Good morning.", "duration": 1.0, "speaker": "EN_B", "language": "en"}
    ).encode()


@pytest.fixture
def emilia(tmp_path: Path) -> Path:
    """A tar with every odd json, a good utterance behind each."""
    path = tmp_path / "corpus" / "EN" / "EN-B000000.tar"
    path.parent.mkdir(parents=True)
    sound = encoded(voice(1.0), "MP3")
    with tarfile.open(path, "w") as tar:
        for number, content in enumerate(ODD_JSON.values()):
            key = f"EN_B00000_S00000_W{number:06d}"
            data = content if isinstance(content, bytes) else content.encode()
            add(tar, f"{key}.json", data.replace(b"ID", key.encode()))
            add(tar, f"{key}.mp3", sound)
            add(tar, f"._{key}.mp3", apple_double())
            add(tar, f"{key}x.json", fine(f"{key}x"))
            add(tar, f"{key}x.mp3", sound)
        add(tar, "bom.json", b"\xef\xbb\xbf" + fine("bom"))
        add(tar, "bom.MP3", sound)
        # Audio before its text: its bytes are read when the text is there.
        add(tar, "late.mp3", sound)
        add(tar, "late.json", fine("late"))
    return path.parent.parent


def prepare(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    status = cli.main(["prepare", *args])
    return status, capsys.readouterr().err


@pytest.mark.timeout(60)
def test_odd_json_is_a_fault_and_the_others_are_listed(
    emilia: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.jsonl"
    status, error = prepare(capsys, "emilia", "--root", str(emilia), "--out", str(out), "--max-faults", "0.9")
    assert (status, error.count("Traceback")) == (0, 0)
    names = [row.id for row in read_manifest(out, str(emilia))]
    assert len(names) == len(ODD_JSON) + 2
    faults = [json.loads(line) for line in out.with_suffix(".faults.jsonl").read_text().splitlines()]
    assert len(faults) == len(ODD_JSON)
    assert {fault["kind"] for fault in faults} == {"not json", "json is not UTF-8", "wrong field"}


@pytest.mark.timeout(60)
def test_members_of_ten_gigabytes_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sparse files: members whose bytes are holes, a text, a sound and a header's long name."""
    for kind in ("json", "mp3", "longname"):
        path = tmp_path / kind / "EN" / "EN-B000000.tar"
        path.parent.mkdir(parents=True)
        with tarfile.open(path, "w") as tar:
            add(tar, "a.json", fine("a"))
            add(tar, "a.mp3", encoded(voice(1.0), "MP3"))
        entry = tarfile.TarInfo("large.json" if kind != "mp3" else "large.mp3")
        entry.size = 10 << 30
        entry.type = tarfile.GNUTYPE_LONGNAME if kind == "longname" else tarfile.REGTYPE
        size = path.stat().st_size
        with path.open("r+b") as file:
            # Over the two blocks of zeros that ended it.
            start = file.read().index(b"a.mp3") + 512 + len(encoded(voice(1.0), "MP3"))
            file.seek(-(-start // 512) * 512)
            file.write(entry.tobuf(tarfile.GNU_FORMAT))
            file.truncate(size + (10 << 30) + 4096)
        out = tmp_path / f"{kind}.jsonl"
        status, error = prepare(
            capsys, "emilia", "--root", str(tmp_path / kind), "--out", str(out), "--max-faults", "1"
        )
        assert status == 0, error
        faults = out.with_suffix(".faults.jsonl").read_text()
        assert ("broken archive" if kind == "longname" else "member too large") in faults
        assert [row.id for row in read_manifest(out, str(tmp_path / kind))] == ["a"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 10**400}, "'seconds' must be a finite number, found 1000"),
        ({"sample_rate": 1e300}, "'sample_rate' must lie between 1000 and 768000"),
        ({"sample_rate": 1}, "'sample_rate' must lie between"),
        ({"channels": 10**9}, "'channels' must lie between 1 and 1024"),
        ({"id": "a" * 300}, "the id is longer than 200 characters"),
        ({"speaker": "a" * 300}, "the speaker is longer than 200 characters"),
        ({"text": "good \ud83d"}, "half of a sign"),
        ({"path": {"path": "a.tar", "offset": 10**30, "size": 1}}, "'offset' must be a whole number"),
        ({"path": {"mix": [["a", 10**400]], "rate": 16000, "mode": "min", "take": [0]}}, "not a mixture"),
        ({"path": {"mix": [["a", float("nan")]], "rate": 16000, "mode": "min", "take": [0]}}, "not a mixture"),
    ],
)
def test_odd_lines_of_a_manifest_are_named(tmp_path: Path, row, write_manifest, changes, message) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [row("ada", 0, **changes)])
    for read in (read_manifest, open_manifest):
        with pytest.raises(UserError, match=message) as error:
            read(path)
        assert f"{path}:1" in str(error.value)
        assert len(str(error.value)) < 500
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deep"):
        read_manifest(path)


def test_a_span_beyond_its_file_is_one_line_and_takes_no_memory(tmp_path: Path, row, write_manifest) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(2048))
    make_pipe(tmp_path / "b.tar")
    rows = [row("ada", 0, path={"path": "a.tar", "offset": 0, "size": 1 << 50})]
    rows += [row("ada", 1, path={"path": "b.tar", "offset": 0, "size": 5})]
    for utterance in read_manifest(write_manifest(tmp_path / "m.jsonl", rows)):
        with pytest.raises(UserError, match=r"ends before byte|not a plain one"):
            utterance.path.frames()


def test_a_name_in_latin_1_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = tmp_path / "dns" / "clean"
    clean.mkdir(parents=True)
    soundfile.write(clean / "fine.WAV", voice(1.0), RATE, format="WAV")
    os.link(clean / "fine.WAV", os.fsencode(clean) + b"/stra\xdfe.wav")
    other = tmp_path / "far"
    other.mkdir()
    soundfile.write(other / "far.wav", voice(1.0), RATE)
    (clean / "link").symlink_to(other)
    (clean / "._fine.wav").write_bytes(apple_double())
    out = tmp_path / "m.jsonl"
    status, error = prepare(capsys, "dns", "--root", str(tmp_path / "dns"), "--out", str(out), "--max-faults", "0.5")
    assert (status, error.count("Traceback")) == (0, 0)
    assert [row.id for row in read_manifest(out, str(tmp_path / "dns"))] == ["clean-fine", "clean-link-far"]
    assert "stra\\\\udcdfe.wav" in out.with_suffix(".faults.jsonl").read_text()


def test_sidecars_of_macs_are_no_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("noisy", "clean"):
        (tmp_path / "dns" / folder).mkdir(parents=True)
        soundfile.write(tmp_path / "dns" / folder / "a_fileid_1.wav", voice(1.0), RATE)
        (tmp_path / "dns" / folder / "._a_fileid_1.wav").write_bytes(apple_double())
    status, _ = prepare(capsys, "dns", "--root", str(tmp_path / "dns"), "--out", str(tmp_path / "m.jsonl"))
    assert status == 0
    assert len(read_manifest(tmp_path / "m.jsonl", str(tmp_path / "dns"))) == 1


ODD_NOISES = {
    "silence": encoded(np.zeros(RATE, np.float32), "WAV"),
    "nan": LYING["nan"][0],
    "empty": LYING["empty"][0],
    "garbage": b"no audio",
    "kaldi": LYING["kaldi_scale"][0],
    "cut": LYING["flac_cut"][0],
}


@pytest.mark.parametrize("name", ODD_NOISES)
def test_noises_and_rooms_are_looked_through_before_training(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "good.wav", voice(2.0), RATE)
    soundfile.write(tmp_path / "short.wav", voice(0.001), RATE)
    (tmp_path / "._good.wav").write_bytes(apple_double())
    for recipe in (SeRecipe(noise_root=tmp_path), SeRecipe(rir_root=tmp_path)):
        StarterDataModule(recipe).prepare_data()
    (tmp_path / "odd.wav").write_bytes(ODD_NOISES[name])
    for recipe in (SeRecipe(noise_root=tmp_path), SeRecipe(rir_root=tmp_path)):
        with pytest.raises(UserError, match=r"1 of 3 recordings hold no sound: odd.wav \(\w"):
            StarterDataModule(recipe).prepare_data()
    RecordingFolder(tmp_path).draw(torch.Generator().manual_seed(0))


def test_what_is_left_out_of_noises_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "good.wav", voice(2.0), RATE)
    with caplog.at_level(logging.INFO):
        RecordingFolder(tmp_path).check()
        assert "left out" not in caplog.text
        (tmp_path / "more").mkdir()
        for name in ("more/b.mp3", "a.ogg", "c.ogg", "._c.ogg"):
            (tmp_path / name).write_bytes(b"")
        RecordingFolder(tmp_path).check()
    assert f"left out of {tmp_path}: 2 .ogg, 1 .mp3, the first a.ogg; what is read ends with .flac, .wav" in caplog.text


class _Missing(Dataset[torch.Tensor]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        return read_audio(self.path, RATE)


@pytest.mark.parametrize("name", ["gone.wav", "nan.wav"])
def test_a_mistake_in_a_worker_reads_as_in_the_main_process(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nan.wav").write_bytes(LYING["nan"][0])
    lines = []
    for workers in (0, 1):
        loader = DataLoader(_Missing(tmp_path / name), num_workers=workers)
        monkeypatch.setattr(cli, "_dispatch", lambda _, loader=loader: list(loader))
        assert cli.main(["fit"]) == 2
        lines.append(capsys.readouterr().err)
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"metis-lightning: error: {tmp_path / name}: ")


def test_a_worker_that_was_killed_is_one_line() -> None:
    killed = "DataLoader worker (pid 123) is killed by signal: Killed. "
    assert "out of memory?" in str(explain_killed_worker(killed))
    assert "out of memory?" in str(explain_killed_worker("DataLoader worker (pid(s) 1, 22) exited unexpectedly"))
    assert explain_killed_worker("CUDA out of memory") is None
