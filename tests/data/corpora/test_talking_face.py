"""Corpora of talking faces: every layout, every planted fault, mouths on the way, and rerunning."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from fake_corpora import encoded, put
from fake_faces import AVHUBERT, RATE, auto_avsr, avhubert, clip, lrs2, lrs3, pictures, speech, write_clip
from metis_lightning.data.corpora import av_corpus as talking_face
from metis_lightning.data.corpora.av_corpus import CustomVideoScan
from metis_lightning.data.corpora.lrs import AutoAvsrScan, AvHubertScan, Lrs2Scan, Lrs3Scan, lrs2_scan, lrs3_scan
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.manifest.scan import CorpusScan
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.media.mouths import NoFaceError
from metis_lightning.data.media.video import VideoSound, write_video
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


def listed(scan: CorpusScan, tmp_path: Path, max_faults: float = 0.0) -> dict[str, Utterance]:
    out = tmp_path / "out/m.jsonl"
    build_manifest(scan, BuildOptions(out, max_faults=max_faults))
    return {utterance.id: utterance for utterance in read_manifest(out, scan.root)}


def faults(tmp_path: Path) -> dict[str, str]:
    lines = (tmp_path / "out/m.faults.jsonl").read_text().splitlines()
    return {fault["where"]: fault["kind"] for fault in map(json.loads, lines)}


def test_raw_lrs3(tmp_path: Path) -> None:
    found = listed(lrs3_scan(str(lrs3(tmp_path / "c"))), tmp_path)
    assert list(found) == [
        "pretrain_-aB_dEfGhIj_00001",
        "trainval_-aB_dEfGhIj_50001",
        "trainval_UmvOgW6iV2s_00002",
        "test_UmvOgW6iV2s_00001",
        "test_UmvOgW6iV2s_00003",
    ]
    first, _, third, fourth, _ = found.values()
    assert [u.text for u in found.values()] == [
        "SO LG HERE WE ARE",
        "ONE MORE",
        "THE LAST",
        "SO LG HERE WE ARE",
        "ONE MORE",
    ]
    assert [u.split for u in found.values()] == ["train"] * 3 + ["test"] * 2
    assert (first.speaker, third.speaker, third.source) == ("-aB_dEfGhIj", "UmvOgW6iV2s", "LRS3 trainval")
    assert third.video == tmp_path / "c/trainval/UmvOgW6iV2s/00002.mp4"
    assert third.path == VideoSound(str(third.video))
    assert third.seconds == pytest.approx(1.4, abs=0.1)
    wave = read_audio(fourth.path, RATE)
    original = speech(1.6, 3)
    assert np.corrcoef(wave[: len(original)], original[: len(wave)])[0, 1] > 0.95
    summary = json.loads((tmp_path / "out/m.summary.json").read_text())
    assert (summary["speakers"], summary["frame_rates"]) == (2, {"25.0": 5})


def test_a_wav_beside_the_video_is_preferred(tmp_path: Path) -> None:
    root = lrs3(tmp_path / "c")
    put(root / "test/UmvOgW6iV2s/00001.wav", encoded(speech(1.6, 7), RATE))
    found = listed(lrs3_scan(str(root)), tmp_path)
    assert found["test_UmvOgW6iV2s_00001"].path == root / "test/UmvOgW6iV2s/00001.wav"
    assert found["test_UmvOgW6iV2s_00001"].seconds == 1.6


@pytest.mark.parametrize("inside", [True, False])
def test_raw_lrs2_by_its_lists(tmp_path: Path, inside: bool) -> None:
    root = lrs2(tmp_path / "c")
    scan = lrs2_scan(str(root / "mvlrs_v1" if inside else root))
    assert isinstance(scan, Lrs2Scan)
    found = listed(scan, tmp_path)
    assert {u.id: (u.speaker, u.split, u.text) for u in found.values()} == {
        "pretrain_33_00001": ("33", "train", "WORDS OF PRETRAIN"),
        "main_11_00001": ("11", "train", "WORDS OF TRAIN"),
        "main_11_00002": ("11", "dev", "WORDS OF VAL"),
        "main_22_00001": ("22", "test", "WORDS OF TEST"),
    }
    assert found["main_22_00001"].video == root / "mvlrs_v1/main/22/00001.mp4"
    assert all(u.video and u.video.is_file() for u in found.values())


@pytest.mark.parametrize("tables", [True, False])
def test_avhuberts_preparation(tmp_path: Path, tables: bool) -> None:
    scan = lrs3_scan(str(avhubert(tmp_path / "c", tables)))
    assert isinstance(scan, AvHubertScan)
    found = listed(scan, tmp_path)
    assert list(found) == [name.replace("/", "_") for name in AVHUBERT]
    assert [u.split for u in found.values()] == ["dev" if tables else "train", "train", "train", "test"]
    assert [u.text.lower() for u in found.values()] == [f"words number {n}" for n in range(4)]
    last = found["test_UmvOgW6iV2s_00007"]
    assert (last.path, last.video) == (
        tmp_path / "c/audio/test/UmvOgW6iV2s/00007.wav",
        tmp_path / "c/video/test/UmvOgW6iV2s/00007.mp4",
    )


def test_auto_avsrs_preparation(tmp_path: Path) -> None:
    root = auto_avsr(tmp_path / "c")
    for scan in (lrs3_scan(str(root)), lrs2_scan(str(root))):
        assert isinstance(scan, AutoAvsrScan)
    found = listed(lrs3_scan(str(root)), tmp_path)
    assert {u.id: (u.speaker, u.split, u.text) for u in found.values()} == {
        "test_abcdefghijk_00007": ("abcdefghijk", "test", "WORDS OF 0"),
        "trainval_UmvOgW6iV2s_00001": ("UmvOgW6iV2s", "train", "WORDS OF 0"),
        "pretrain_kGRnBzEqWUk_00009_00": ("kGRnBzEqWUk", "train", "WORDS OF 1"),
    }
    train = found["trainval_UmvOgW6iV2s_00001"]
    assert train.path == root / "lrs3/lrs3_video_seg16s/trainval/UmvOgW6iV2s/00001.wav"
    assert isinstance(found["test_abcdefghijk_00007"].path, VideoSound)


def own(root: Path) -> list[dict[str, str]]:
    clip(root / "a/one.mp4", 1.0, 0, (120, 160))
    clip(root / "b/two clips.mp4", 1.2, 1, sound=False)
    np.save(root / "three.npy", np.ones((26, 768), dtype=np.float32))
    put(root / "three.flac", encoded(speech(1.0, 2), RATE, "FLAC"))
    return [
        {"video": "a/one.mp4", "speaker": "ann", "text": "Grüße aus Wien", "language": "de"},
        {"video": "b/two clips.mp4", "audio": "b/two clips.wav", "split": "test"},
        {"lips": "three.npy", "audio": "three.flac", "id": "third", "speaker": "bob"},
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_own_videos_by_a_list(tmp_path: Path, kind: str) -> None:
    lines = own(tmp_path / "c")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if kind == "csv":
        columns = ("video", "audio", "lips", "id", "speaker", "text", "language", "split")
        rows = [",".join(columns), *(",".join(line.get(c, "") for c in columns) for line in lines)]
        text = "\ufeff" + "\n".join(rows) + "\n"
    found = listed(CustomVideoScan(str(tmp_path / "c"), list=put(tmp_path / f"clips.{kind}", text)), tmp_path)
    assert list(found) == ["a_one", "b_two_clips", "third"]
    first, second, third = found.values()
    assert (first.speaker, first.text, first.language, first.split) == ("ann", "Grüße aus Wien", "de", "train")
    assert (second.speaker, second.text, second.split) == ("b_two_clips", "", "test")
    assert second.path == tmp_path / "c/b/two clips.wav"
    assert (third.video, third.lips) == (None, tmp_path / "c/three.npy")


def test_every_planted_fault_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    root = lrs3(tmp_path / "c")
    folder = root / "trainval/faultyfaces"

    def plant(name: str, text: str | bytes = "Text:  WORDS\n", **options: object) -> Path:
        put(folder / f"{name}.txt", text)
        return clip(folder / f"{name}.mp4", **options)

    plant("empty_text", "Text:  \nConf:  4\n")
    plant("no_lines", "")
    plant("latin_1", "Text:  CAF\xc9\n".encode("latin-1"))
    cut = plant("cut", seconds=2.0)
    put(cut, cut.read_bytes()[:9_000])
    put(plant("zero"), b"")
    clip(folder / "no_text.mp4")
    put(folder / "no_video.txt", "Text:  WORDS\n")
    write_clip(plant("no_sound"), pictures(25))
    write_clip(plant("silent"), pictures(25), np.zeros(RATE, dtype=np.float32))
    write_clip(plant("long_sound"), pictures(25), speech(1.5))
    write_clip(plant("slow"), pictures(8), speech(1.0), rate=8)
    put(plant("no_movie"), b"these are no pictures, and there are no boxes")
    with pytest.raises(UserError, match="is faulty, more than --max-faults 0; see"):
        listed(lrs3_scan(str(root)), tmp_path)
    assert {where.rpartition("/")[2]: kind for where, kind in faults(tmp_path).items()} == {
        "empty_text": "empty text",
        "no_lines": "empty text",
        "latin_1": "not UTF-8",
        "cut": "truncated video",
        "zero": "0 bytes",
        "no_text": "missing pair",
        "no_video": "missing pair",
        "no_sound": "no sound",
        "silent": "silence only",
        "long_sound": "sound and pictures differ in length",
        "slow": "too few pictures a second",
        "no_movie": "unreadable video",
    }
    assert len(listed(lrs3_scan(str(root)), tmp_path, max_faults=0.8)) == 5


def test_sound_may_differ_by_two_frames_and_5_percent(tmp_path: Path) -> None:
    for name, seconds in (("inside", 1.1), ("outside", 1.2)):
        write_clip(tmp_path / f"c/{name}.mp4", pictures(25))
        put(tmp_path / f"c/{name}.wav", encoded(speech(seconds), RATE))
    lines = "".join(f"{name}.mp4,{name}.wav\n" for name in ("inside", "outside"))
    scan = CustomVideoScan(str(tmp_path / "c"), list=put(tmp_path / "l.csv", "video,audio\n" + lines))
    assert list(listed(scan, tmp_path, max_faults=0.5)) == ["inside"]
    assert list(faults(tmp_path).values()) == ["sound and pictures differ in length"]


def test_counts_other_than_listed_are_found(tmp_path: Path) -> None:
    root = avhubert(tmp_path / "c")
    write_clip(root / f"video/{AVHUBERT[0]}.mp4", pictures(26))
    put(root / f"audio/{AVHUBERT[1]}.wav", encoded(speech(1.1, 1), RATE))
    (root / f"audio/{AVHUBERT[2]}.wav").unlink()
    assert list(listed(lrs3_scan(str(root)), tmp_path, max_faults=0.75)) == ["test_UmvOgW6iV2s_00007"]
    assert faults(tmp_path) == dict(zip(AVHUBERT[:3], ("wrong length", "wrong length", "missing pair"), strict=True))


def test_lists_that_lead_astray_are_faults(tmp_path: Path) -> None:
    clip(tmp_path / "outside.mp4")
    clip(tmp_path / "c/in.mp4")
    np.save(tmp_path / "c/bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "c/short.npy", np.ones((9, 768)))
    lines = [
        {"video": "../outside.mp4"},
        {"video": str(tmp_path / "outside.mp4")},
        {"video": "in.mp4", "id": "../../x"},
        {"video": "in.mp4", "audio": "none.wav"},
        {"lips": "bad.npy", "video": "in.mp4", "id": "bad"},
        {"lips": "short.npy", "video": "in.mp4", "id": "short"},
        {"text": "nothing to see"},
        {"video": 7},
        {"video": "in.mp4"},
    ]
    scan = CustomVideoScan(
        str(tmp_path / "c"), list=put(tmp_path / "l.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    )
    assert list(listed(scan, tmp_path, max_faults=0.9)) == ["in"]
    kinds = ["wrong field", "wrong field", "wrong field", "missing pair", "wrong features"]
    kinds += ["sound and pictures differ in length", "missing pair", "wrong field"]
    assert sorted(faults(tmp_path).values()) == sorted(kinds)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", b"video,audio\n\xff\xfe", "not UTF-8 csv"),
        ("l.jsonl", b'{"video"', "not UTF-8 jsonl"),
        ("l.jsonl", b"[1]", "clip 1 has no object"),
        ("l.csv", b"file,video\na,b\n", "unknown columns file"),
        ("l.txt", b"video\n", "ends with .jsonl or .csv"),
        ("l.csv", b"video\n", "nothing to prepare"),
    ],
)
def test_wrong_lists_are_one_line(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        listed(CustomVideoScan(str(tmp_path), list=put(tmp_path / name, text)), tmp_path)


def test_damaged_lists_of_preparations_are_named_by_line(tmp_path: Path) -> None:
    root = avhubert(tmp_path / "a")
    put(root / "433h_data/train.tsv", "/\nonly\ttwo\n")
    with pytest.raises(UserError, match=r"train.tsv:2: expected id, two paths and two counts"):
        listed(lrs3_scan(str(root)), tmp_path)
    name = "labels/lrs3_train_transcript_lengths_seg16s.csv"
    for line, message in (("lrs3,x.mp4,9,1", ":1: expected set, path"), ("lrs3,../../x.mp4,9,1", "without '..'")):
        put(tmp_path / "b" / name, f"{line}\n")
        with pytest.raises(UserError, match=message):
            listed(lrs3_scan(str(tmp_path / "b")), tmp_path)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    for scan in (lrs3_scan, lrs2_scan):
        with pytest.raises(UserError, match="no such folder"):
            scan(str(tmp_path / "none"))
        with pytest.raises(UserError, match="nothing to prepare; looked for"):
            listed(scan(str(tmp_path)), tmp_path)
    with pytest.raises(UserError, match="layout 'x': choose one of auto, raw"):
        lrs3_scan(str(tmp_path), layout="x")


def test_a_scan_travels_to_workers_without_its_lists(tmp_path: Path) -> None:
    scan = lrs3_scan(str(avhubert(tmp_path / "c")))
    whole = scan.shards()
    again = pickle.loads(pickle.dumps(scan))
    assert vars(again) == {"root": str(tmp_path / "c"), "decode": True, "mouths": None}
    assert again.shards() == whole


@pytest.fixture
def crops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for the cropping of mouths, which needs MediaPipe; no face is in videos named 00003. Notes its calls."""
    called: list[str] = []

    def write_mouths(video: Path, path: Path) -> int:
        called.append(path.stem)
        if video.stem == "00003":
            raise NoFaceError(f"{video}: a face is seen in 0 of 25 pictures")
        return write_video(path, pictures(5))

    monkeypatch.setattr(talking_face, "write_mouths", write_mouths)
    return called


def test_mouths_are_cropped_once_and_videos_without_a_face_are_faults(tmp_path: Path, crops: list[str]) -> None:
    root = lrs3(tmp_path / "c")
    scan = lrs3_scan(str(root), mouths=str(tmp_path / "mouths"))
    found = listed(scan, tmp_path, max_faults=0.2)
    assert faults(tmp_path) == {"test/UmvOgW6iV2s/00003": "no face"}
    assert sorted(path.stem for path in (tmp_path / "mouths").iterdir()) == sorted(found)
    assert len(crops) == 5
    listed(scan, tmp_path, max_faults=0.2)
    assert len(crops) == 5
    # Another piece of the same work: what was cropped before stays.
    for part in (tmp_path / "out/m.parts").iterdir():
        part.unlink()
    assert list(listed(scan, tmp_path, max_faults=0.2)) == list(found)
    assert crops[5:] == ["test_UmvOgW6iV2s_00003"]


def test_mouths_are_not_cropped_again_from_mouths(tmp_path: Path, crops: list[str]) -> None:
    listed(lrs3_scan(str(avhubert(tmp_path / "c")), mouths=str(tmp_path / "mouths")), tmp_path)
    assert crops == []


def test_an_id_cannot_write_outside_its_folder(tmp_path: Path, crops: list[str]) -> None:
    clip(tmp_path / "c/in.mp4", size=(120, 160))
    text = json.dumps({"video": "in.mp4", "id": "../escaped"})
    scan = CustomVideoScan(str(tmp_path / "c"), mouths=str(tmp_path / "mouths"), list=put(tmp_path / "l.jsonl", text))
    with pytest.raises(UserError, match="1 wrong field"):
        listed(scan, tmp_path)
    assert crops == []


def test_lrs3_is_the_raw_scan_unless_there_are_lists(tmp_path: Path) -> None:
    assert isinstance(lrs3_scan(str(tmp_path)), Lrs3Scan)
    assert isinstance(lrs3_scan(str(tmp_path), layout="avhubert"), AvHubertScan)
