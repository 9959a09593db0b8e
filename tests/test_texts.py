"""Equal texts count equally, whatever wrote them: phones, word errors, lists of every reader."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from metis_lightning.data.corpora import librimix, lrs, seedtts
from metis_lightning.data.corpora.av_corpus import CustomVideoScan, words_of
from metis_lightning.data.corpora.librimix import OnTheFlyMixtureScan
from metis_lightning.data.corpora.librispeech import read_transcripts
from metis_lightning.data.corpora.vctk import VctkScan
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.manifest.test_sets import read_enrollments
from metis_lightning.generate.jobs import JOB_COLUMNS, Job, read_list
from metis_lightning.metrics.text import normalizer
from metis_lightning.metrics.wer import word_errors
from metis_lightning.texts import RULES, clean_text, on_disk, read_lines, unify_apostrophes
from metis_lightning.tokens.phonemes import text_front_end
from odd_audio import encoded, voice

BOM = "\ufeff"
ODD = {
    "decomposed": "cafe\u0301 noir",
    "mark": f"{BOM}café{BOM} noir",
    "separator": "café\u2028noir",
    "paragraph": "café\u2029noir",
    "next line": "café\u0085noir",
    "lines": "café\r\nnoir\n",
    "no break": "café\u00a0 noir",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_texts_that_read_the_same_are_the_same(text: str) -> None:
    assert clean_text(text) == "café noir"
    assert Job("tts", "a", Path("a.wav"), {"text": text}).text("text") == "café noir"


@pytest.mark.parametrize("sign", "’ʼ＇‛´`′'")
@pytest.mark.parametrize("rules", ["whisper", "whisper-english", "seed-tts"])
def test_apostrophes_count_alike(rules: str, sign: str) -> None:
    said = "It's the driver's train, isn't it? We won't go."
    errors = word_errors(said.replace("'", sign), said, normalizer(rules, "en"))
    assert (errors.edits, errors.words) == (0, word_errors(said, said, normalizer(rules, "en")).words)
    assert word_errors(said, said.replace("'", sign), normalizer(rules, "en")).edits == 0


def test_a_possessive_keeps_its_apostrophe_and_a_quotation_has_none() -> None:
    assert unify_apostrophes("the drivers’ train") == "the drivers' train"
    assert unify_apostrophes("’tis") == "'tis"
    seed_tts = normalizer("seed-tts", "en")
    assert seed_tts("He said ‘it’s mine’ and “isn’t”.") == "he said it's mine and isn't"
    assert seed_tts("cafe\u0301") == seed_tts("café")
    assert normalizer("none", "en")(f"{BOM}cafe\u0301") == "café"


@pytest.mark.parametrize("name", ["utf8", "espeak"])
def test_phones_of_decomposed_and_full_width_letters_are_those_of_the_others(name: str) -> None:
    if name == "espeak":
        pytest.importorskip("phonemizer")
    front_end = text_front_end(name)
    for text, language in (
        ("Grüße aus München, schön", "de"),
        ("안녕하세요", "ko"),
        ("perché più", "it"),
        ("йод ещё", "ru"),
        ("café naïve", "en"),
    ):
        for other in (unicodedata.normalize("NFD", text), f"{BOM}{text}", text.replace(" ", "\u2028")):
            assert front_end((other, language)) == front_end((text, language)), text
    assert front_end(("\uff28\uff45\uff4c\uff4c\uff4f", "en")) == front_end(("Hello", "en"))
    assert front_end(("ﬁne", "en")) == front_end(("fine", "en"))


def test_the_rules_are_in_the_fingerprint() -> None:
    assert RULES.startswith("1: NFC")
    assert "texts.RULES" in Path(word_errors.__code__.co_filename).read_text(encoding="utf-8")


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(f"{BOM}one\u2028still one\u0085\x0b\x0c\r\ntwo\rstill two\n\nthree".encode())
    assert read_lines(tmp_path / "a.txt") == ["one\u2028still one\u0085\x0b\x0c", "two\rstill two", "", "three"]


def test_every_reader_of_texts_cleans_them(tmp_path: Path, write_row) -> None:
    """A byte-order mark, lines of Windows, decomposed letters and separators, in each format."""
    odd, plain = "cafe\u0301\u2028noir", "café noir"
    (tmp_path / "1-2.trans.txt").write_bytes(f"{BOM}1-2-0000 {odd}\r\n1-2-0001 b\r\n".encode())
    assert read_transcripts(tmp_path / "1-2.trans.txt") == {"1-2-0000": plain, "1-2-0001": "b"}

    assert read_manifest(write_row(text=f"{BOM}{odd}\r\n"))[0].text == plain

    vctk = tmp_path / "vctk"
    for name in ("wav48/p225", "txt/p225"):
        (vctk / name).mkdir(parents=True)
    (vctk / "wav48/p225/p225_001.wav").write_bytes(encoded(voice(1.0), "WAV"))
    (vctk / "wav48/p225/._p225_001.wav").write_bytes(b"\0\5\x16\7")
    (vctk / "txt/p225/p225_001.txt").write_bytes(f"{BOM}{odd}\r\n".encode())
    scan = VctkScan(str(vctk))
    assert [row["text"] for shard in scan.shards() for row in scan.scan(shard)] == [plain]

    (tmp_path / "en" / "prompts").mkdir(parents=True)
    (tmp_path / "en" / "prompts" / "ü.wav").write_bytes(encoded(voice(1.0), "WAV"))
    decomposed = unicodedata.normalize("NFD", "prompts\\ü.wav")
    (tmp_path / "en" / "meta.lst").write_bytes(f"{BOM}a|{odd}|{decomposed}|{odd}\r\n".encode())
    seed_tts = seedtts.SeedTtsTests(tmp_path)
    (trial,) = seed_tts.load_trials("seedtts-en")
    item = seed_tts.load_item(trial)
    assert (trial.id, item.prompt_text, item.text) == ("seedtts-en_a", plain, plain)
    assert item.enrollment is not None and len(item.enrollment) > 0

    assert words_of(f"{BOM}Text:  cafe\u0301 {{LG}}\u2028noir\r\nConf: 4\r\n") == "café LG noir"
    (tmp_path / "list.txt").write_bytes(f"{BOM}1-2-3_4-5-6 1-2-3 s1/1-2-9_7-7-7\r\n".encode())
    assert len(read_enrollments(tmp_path / "list.txt")) == 1


def test_lists_of_lips_read_as_others(tmp_path: Path) -> None:
    (tmp_path / "file.list").write_bytes(f"{BOM}test\\UmvOgW6iV2s\\00001\r\n".encode())
    (tmp_path / "label.list").write_bytes("SO WHAT\u2028NOW\r\n".encode())
    (entry,) = lrs.AvHubertScan(str(tmp_path)).entries()
    assert (entry.where, entry.text, entry.split) == ("test/UmvOgW6iV2s/00001", "SO WHAT NOW", "test")
    (tmp_path / "train.txt").write_bytes(f"{BOM}0001\\00002 tag\r\n".encode())
    assert [entry[1] for entry in lrs.Lrs2Scan(str(tmp_path)).entries()] == ["main_0001_00002"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_users_list_of_videos_keeps_its_texts(tmp_path: Path, kind: str) -> None:
    (tmp_path / "lips").mkdir()
    np.save(tmp_path / "lips" / "ü.npy", np.zeros((5, 768), np.float32))
    lips = unicodedata.normalize("NFD", "lips\\ü.npy")
    row = {"lips": lips, "audio": "", "text": "Good\u2028mor\r\nning, all", "speaker": "anna"}
    if kind == "csv":
        text = "lips,audio,text,speaker\r\n" + f'{lips},,"{row["text"]}",anna\r\n'
    else:
        text = json.dumps(row, ensure_ascii=False) + "\r\n"
    (tmp_path / f"clips.{kind}").write_bytes(f"{BOM}{text}".encode())
    scan = CustomVideoScan(str(tmp_path), list=tmp_path / f"clips.{kind}")
    (clip,) = map(scan.clip, scan.entries())
    assert clean_text(clip.text) == "Good mor ning, all"
    assert (clip.lips, clip.id) == ("lips/ü.npy", "lips__")


def test_lists_of_generate_keep_their_texts(tmp_path: Path) -> None:
    texts = {"a": "The train\u2028leaves at noon.", "b": "The train\u0085leaves.", "c": "The train\nleaves."}
    bare = f"{BOM}id,text\r\n" + "".join(f"{name},{text}\r\n" for name, text in texts.items() if name != "c")
    quoted = "id,text\n" + "".join(f'{name},"{text}"\n' for name, text in texts.items())
    lines = "".join(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n" for name, text in texts.items())
    for name, content, count in (("bare.csv", bare, 2), ("quoted.csv", quoted, 3), ("texts.jsonl", BOM + lines, 3)):
        (tmp_path / name).write_bytes(content.encode())
        read = {line["id"]: line["text"] for _, line in read_list(tmp_path / name, JOB_COLUMNS)}
        assert read == dict(list(texts.items())[:count])


@pytest.mark.parametrize("mark", ["", BOM])
@pytest.mark.parametrize("sign", ["\\", "/"])
def test_librimix_made_on_windows_reads_as_others(tmp_path: Path, mark: str, sign: str) -> None:
    mini = tmp_path / "Libri2Mix" / "wav16k" / "min"
    name = "84-1-0001_174-2-0000"
    first, second = (np.round(voice(1.0, seed, 16_000) * 32768) / 32768 for seed in (1, 2))
    for kind, wave in (("mix_clean", first + second), ("s1", first), ("s2", second)):
        (mini / "dev" / kind).mkdir(parents=True)
        (mini / "dev" / kind / f"{name}.wav").write_bytes(encoded(wave, "WAV", "PCM_16", 16_000))
    paths = [sign.join(["F:", "Mix", "min", "dev", kind, f"{name}.wav"]) for kind in ("mix_clean", "s1", "s2")]
    table = mini / "metadata" / "mixture_dev_mix_clean.csv"
    table.parent.mkdir()
    header = "mixture_ID,mixture_path,source_1_path,source_2_path,length"
    table.write_bytes(f"{mark}{header}\r\n{','.join([name, *paths, '16000'])}\r\n".encode())
    scan = librimix.LibriMixScan(root=str(mini))
    rows = [row for shard in scan.shards() for row in scan.scan(shard)]
    assert [row["id"] for row in rows if isinstance(row, dict)] == [f"{name}_s1", f"{name}_s2"], rows

    for one, wave in zip(name.split("_"), (first, second), strict=True):
        path = tmp_path / "LibriSpeech" / "dev-clean" / "/".join(one.split("-")[:2]) / f"{one}.flac"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(wave, "FLAC", None, 16_000))
    flacs = [sign.join(["dev-clean", *one.split("-")[:2], f"{one}.flac"]) for one in name.split("_")]
    made = tmp_path / "libri2mix_dev-clean.csv"
    header = "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain"
    good = ",".join([name, flacs[0], "1.0", flacs[1], "1.0", sign.join(["tt", "n.wav"]), "0.5"])
    bad = ",".join(["a_b", flacs[0], "loud", flacs[1], "1.0", "n.wav", "0.5"])
    made.write_bytes(f"{mark}{header}\r\n{good}\r\n{bad}\r\n".encode())
    scan = OnTheFlyMixtureScan(root=str(tmp_path), metadata=(made,))
    rows = [row for shard in scan.shards() for row in scan.scan(shard)]
    assert [row["id"] for row in rows if isinstance(row, dict)] == [f"{name}_s1", f"{name}_s2"], rows


def test_paths_are_found_as_the_disk_has_them(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    for name in ("\u00e9.wav", "a\\b.wav"):
        (tmp_path / "day" / name).write_bytes(b"")
    assert on_disk(tmp_path / "day\\e\u0301.wav") == tmp_path / "day" / "\u00e9.wav"
    assert on_disk(tmp_path / "day" / "a\\b.wav") == tmp_path / "day" / "a\\b.wav"
    assert on_disk(tmp_path / "gone.wav") == tmp_path / "gone.wav"
    assert on_disk(tmp_path / ("x" * 5000)) == tmp_path / ("x" * 5000)


@pytest.fixture
def write_row(tmp_path: Path):  # noqa: ANN201
    def write(**changes: object) -> Path:
        row = {"id": "a", "path": "a.wav", "speaker": "s", "text": "", "language": "en", "seconds": 1.0}
        row |= {"sample_rate": 24_000, "split": "train", **changes}
        (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
        return tmp_path / "m.jsonl"

    return write
