"""Emilia's layouts, and what becomes of every fault that may be in them."""

import json
from pathlib import Path

import fsspec
import pytest
import torch

from fake_corpora import emilia_json, emilia_members, encoded, put, tar_bytes, voice
from metis_lightning.data.corpora.emilia import EmiliaScan
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.media.locations import FileSpan
from metis_lightning.errors import UserError

SPEAKER = "EN_B00000_S00000"
YODAS = "EN_tKv-_vxYZXI_SPEAKER_00"


def found(root, decode=True):
    """The rows and faults of all tars and lists."""
    scan = EmiliaScan(str(root), decode=decode)
    everything = [item for shard in scan.shards() for item in scan.scan(shard)]
    return [i for i in everything if isinstance(i, dict)], [i for i in everything if not isinstance(i, dict)]


def kinds(faults):
    return sorted(fault.kind for fault in faults)


@pytest.mark.parametrize("name", ["Emilia/EN/EN-B000000.tar", "EN/EN-B000000.tar", "EN-B000000.tar"])
def test_members_are_paired_by_name_and_read_where_they_lie(tmp_path, name):
    members = emilia_members(SPEAKER, range(3))
    put(tmp_path / name, tar_bytes(members))
    rows, faults = found(tmp_path)
    assert faults == []
    assert [row["id"] for row in rows] == [f"{SPEAKER}_W{n:06d}" for n in (2, 1, 0)]
    first = rows[-1]
    assert (first["speaker"], first["text"], first["dnsmos"]) == (SPEAKER, f"Words of {SPEAKER}_W000000.", 3.3)
    assert (first["sample_rate"], first["channels"], first["language"], first["source"]) == (24_000, 1, "en", "Emilia")
    assert first["seconds"] == pytest.approx(1.0, abs=0.01)
    for row in rows:
        data = (tmp_path / name).read_bytes()[row["path"]["offset"] :][: row["path"]["size"]]
        assert data == dict(members)[f"{row['id']}.mp3"]


def test_a_manifest_reads_audio_from_inside_the_tar(tmp_path):
    members = emilia_members(SPEAKER, range(3))
    put(tmp_path / "c/EN/EN-B000000.tar", tar_bytes(members))
    summary = build_manifest(EmiliaScan(str(tmp_path / "c")), BuildOptions(tmp_path / "m.jsonl"))
    assert (summary.utterances, summary.speakers) == (3, 1)
    assert summary.hours == pytest.approx(3 / 3600, rel=0.01)
    for utterance in read_manifest(tmp_path / "m.jsonl", str(tmp_path / "c")):
        assert isinstance(utterance.path, FileSpan)
        alone = put(tmp_path / "alone.mp3", dict(members)[f"{utterance.id}.mp3"])
        assert torch.equal(read_audio(utterance.path, 24_000), read_audio(alone, 24_000))


def test_any_url_of_fsspec_is_a_root(tmp_path):
    members = emilia_members(SPEAKER, range(2))
    files = fsspec.filesystem("memory")
    files.pipe("/hub/Emilia/EN/EN-B000000.tar", tar_bytes(members))
    build_manifest(EmiliaScan("memory://hub"), BuildOptions(tmp_path / "m.jsonl"))
    utterances = read_manifest(tmp_path / "m.jsonl", "memory://hub")
    assert len(utterances) == 2
    alone = put(tmp_path / "alone.mp3", dict(members)[f"{utterances[0].id}.mp3"])
    assert torch.equal(read_audio(utterances[0].path, 24_000), read_audio(alone, 24_000))
    files.rm("/hub", recursive=True)
    with pytest.raises(UserError, match="cannot be read"):
        read_audio(utterances[0].path, 24_000)


def test_yodas_calls_its_id_otherwise_and_lists_no_path(tmp_path):
    put(tmp_path / "Emilia-YODAS/EN/EN-B000000.tar", tar_bytes(emilia_members(YODAS, range(2), yodas=True)))
    rows, faults = found(tmp_path)
    assert faults == []
    assert [row["id"] for row in rows] == [f"{YODAS}_W000001", f"{YODAS}_W000000"]
    assert {(row["source"], row["license"]) for row in rows} == {("Emilia-YODAS", "CC-BY-4.0")}


def test_the_legacy_list_names_files_of_unpacked_folders(tmp_path):
    name = f"{SPEAKER}_W000000"
    audio = put(tmp_path / f"EN/EN_B00000/{SPEAKER}/mp3/{name}.mp3", encoded(voice(1.0, 1, 24_000), 24_000, "MP3"))
    lost = emilia_json(f"{SPEAKER}_W000001", SPEAKER, 1.0)
    escaping = emilia_json("x", SPEAKER, 1.0, wav="../../secret.mp3")
    lines = [emilia_json(name, SPEAKER, 1.0), lost, escaping, b"\xff{}"]
    put(tmp_path / "EN/EN_B00000.jsonl", b"\n".join(lines))
    rows, faults = found(tmp_path)
    assert [row["path"] for row in rows] == [audio.relative_to(tmp_path).as_posix()]
    assert kinds(faults) == ["json is not UTF-8", "missing file", "wrong field"]


def test_a_packed_legacy_archive_is_named(tmp_path):
    put(tmp_path / "EN/EN_B00000.jsonl", emilia_json(f"{SPEAKER}_W000000", SPEAKER, 1.0))
    put(tmp_path / "EN/EN_B00000.tar.gz", b"packed")
    rows, faults = found(tmp_path)
    assert rows == []
    assert kinds(faults) == ["packed archive"]
    assert faults[0].archive


NAN = encoded(voice(1.0, 1, 24_000) * float("nan"), 24_000, "WAV", subtype="FLOAT")
GOOD = encoded(voice(1.0, 1, 24_000), 24_000, "MP3")
JSON = emilia_json("a", SPEAKER, 1.0)


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ([("a.json", JSON)], "missing pair"),
        ([("a.mp3", GOOD)], "missing pair"),
        ([("a.json", JSON), ("a.mp3", b"")], "0 bytes"),
        ([("a.json", JSON), ("a.mp3", b"no sound at all" * 99)], "unreadable audio"),
        ([("a.json", JSON), ("a.mp3", GOOD[: len(GOOD) // 3])], "truncated audio"),
        ([("a.json", emilia_json("a", SPEAKER, 2.0)), ("a.mp3", GOOD)], "wrong duration"),
        ([("a.json", JSON), ("a.wav", NAN)], "NaN or infinite samples"),
        ([("a.json", JSON), ("a.wav", encoded(voice(1, 1)[:0], 16_000))], "no samples"),
        ([("a.json", JSON), ("a.wav", encoded(0 * voice(1, 1), 16_000))], "silence only"),
        ([("a.json", JSON), ("a.wav", encoded(voice(1, 1), 16_000)[:9000])], "truncated audio"),
        ([("a.json", JSON), ("a.mp3", b"version https://git-lfs.github.com/spec/v1\n")], "git-lfs pointer"),
        ([("a.mp3", GOOD), ("a.json", b"\xff\xfe{}")], "json is not UTF-8"),
        ([("a.mp3", GOOD), ("a.json", b"{")], "not json"),
        ([("a.mp3", GOOD), ("a.json", b"[]")], "not json"),
        ([("a.mp3", GOOD), ("a.json", emilia_json("b", SPEAKER, 1.0))], "id is not the file's name"),
        ([("/etc/a.mp3", GOOD)], "unsafe member name"),
        ([("../a.mp3", GOOD)], "unsafe member name"),
        ([("a.txt", b"?")], "neither json nor audio"),
        ([("a.json", JSON), ("a.mp3", GOOD), ("a.mp3", GOOD)], "second member of this name"),
    ],
)
def test_faults_are_listed_and_the_rest_is_kept(tmp_path, members, kind):
    put(tmp_path / "EN-B000000.tar", tar_bytes([*members, *emilia_members(SPEAKER, range(1))]))
    rows, faults = found(tmp_path)
    assert f"{SPEAKER}_W000000" in [row["id"] for row in rows]
    assert len(rows) == (2 if kind == "second member of this name" else 1)
    assert kind in kinds(faults)
    assert not any(fault.archive for fault in faults)
    assert not (tmp_path.parent / "a.mp3").exists()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_a_truncated_tar_is_a_broken_archive(tmp_path, keep):
    data = tar_bytes(emilia_members(SPEAKER, range(4)))
    # tarfile pads to 10,240 bytes: what is cut must be more than the padding.
    used = len(data.rstrip(b"\0"))
    put(tmp_path / "EN-B000000.tar", data[: int(used * keep)])
    rows, faults = found(tmp_path)
    assert len(rows) < 4
    broken = [fault for fault in faults if fault.archive]
    assert kinds(broken) == ["broken archive"]
    assert broken[0].where == "EN-B000000.tar"


def test_a_damaged_header_is_no_end_of_archive(tmp_path):
    data = bytearray(tar_bytes(emilia_members(SPEAKER, range(4))))
    middle = [at for at in range(0, len(data), 512) if data[at : at + 3] == b"EN_"][5]
    data[middle + 148 : middle + 156] = b"XXXXXXXX"
    put(tmp_path / "EN-B000000.tar", bytes(data))
    assert "broken archive" in kinds(found(tmp_path)[1])


def test_other_rates_and_channels_are_taken_and_counted(tmp_path):
    stereo = encoded(voice(2.0, 1, 44_100).reshape(-1, 2), 44_100, "FLAC")
    put(tmp_path / "EN-B000000.tar", tar_bytes([("a.json", JSON), ("a.flac", stereo)]))
    summary = build_manifest(EmiliaScan(str(tmp_path)), BuildOptions(tmp_path / "m.jsonl"))
    assert (dict(summary.sample_rates), dict(summary.channels)) == ({"44100": 1}, {"2": 1})
    (utterance,) = read_manifest(tmp_path / "m.jsonl")
    assert read_audio(utterance.path, 24_000).shape == (24_000,)


def test_headers_alone_miss_what_only_decoding_finds(tmp_path):
    put(tmp_path / "EN-B000000.tar", tar_bytes([("a.json", JSON), ("a.wav", NAN)]))
    assert found(tmp_path, decode=False)[1] == []
    assert kinds(found(tmp_path)[1]) == ["NaN or infinite samples"]


def test_languages_choose_tars(tmp_path):
    for name in ("Emilia/EN/EN-B000000.tar", "Emilia/DE/DE-B000000.tar"):
        put(tmp_path / name, tar_bytes(emilia_members(SPEAKER, range(1))))
    shards = EmiliaScan(str(tmp_path), ("de",)).shards()
    assert [Path(shard.name).name for shard in shards] == ["DE-B000000.tar"]


def test_ids_that_are_no_file_names_are_left_out(tmp_path):
    name = "a b"
    put(
        tmp_path / "EN-B000000.tar",
        tar_bytes([(f"{name}.json", emilia_json(name, SPEAKER, 1.0)), (f"{name}.mp3", GOOD)]),
    )
    with pytest.raises(UserError, match="1 wrong field"):
        build_manifest(EmiliaScan(str(tmp_path)), BuildOptions(tmp_path / "m.jsonl"))
    (fault,) = [json.loads(line) for line in (tmp_path / "m.faults.jsonl").read_text().splitlines()]
    assert "may hold only" in fault["detail"]


def test_a_broken_half_is_one_fault_and_a_repaired_file_is_seen(tmp_path):
    put(tmp_path / "c/EN-B000000.tar", tar_bytes([("a.json", b"{"), ("a.mp3", GOOD)]))
    assert kinds(found(tmp_path / "c")[1]) == ["not json"]
    name = f"{SPEAKER}_W000000"
    put(tmp_path / "d/EN/EN_B00000.jsonl", emilia_json(name, SPEAKER, 1.0))
    audio = put(tmp_path / f"d/EN/EN_B00000/{SPEAKER}/mp3/{name}.mp3", b"")
    options = BuildOptions(tmp_path / "d/m.jsonl")
    with pytest.raises(UserError, match="1 0 bytes"):
        build_manifest(EmiliaScan(str(tmp_path / "d")), options)
    audio.write_bytes(GOOD)
    # What lies beside the corpus by now, the manifest and its pieces, is no list of it.
    assert build_manifest(EmiliaScan(str(tmp_path / "d")), options).utterances == 1
