"""The mouths that `experiments/nano/mouths.py` draws: shapes follow phones, and files are read as any video is."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from metis_lightning.data.manifest.records import read_rows
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.media.video import read_video

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments/nano/mouths.py"
spec = importlib.util.spec_from_file_location("nano_mouths", SCRIPT)
mouths = sys.modules["nano_mouths"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mouths)


def test_every_phone_of_english_has_a_shape() -> None:
    phones = """AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW
        B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"""
    assert set(mouths.SHAPES) == set(phones.split())


def test_lips_close_for_a_labial_and_open_for_a_vowel() -> None:
    # /a m a/, 200 ms each, equally loud, with rest on both sides.
    phones = [("SIL", 0, 20), ("AA", 20, 20), ("M", 40, 20), ("AA", 60, 20), ("SIL", 80, 20)]
    wave = 0.1 * np.sin(np.arange(16_000) * 0.05)
    opening = mouths.lip_track(phones, wave)[:, 0]
    assert len(opening) == 25
    assert opening[7] > 0.6 and opening[17] > 0.6
    assert opening[12] < 0.02


def test_an_open_mouth_is_darker_inside_and_a_face_stays_the_same() -> None:
    face = mouths.Face.drawn("speaker_0001")
    closed, open_ = (mouths.draw(mouths.SHAPES[p], face, np.random.default_rng(0)).astype(float) for p in ("M", "AA"))
    row, column = round(face.centre[1]) + 4, round(face.centre[0])
    assert open_.shape == (96, 96, 3)
    assert open_[row, column].mean() < closed[row, column].mean() - 20
    # Away from the mouth it is the same face.
    assert np.abs(open_[:20] - closed[:20]).max() == 0
    assert np.array_equal(mouths.Face.drawn("speaker_0001").skin, face.skin)


def test_the_script_writes_a_corpus_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mouths.py", "--out", str(tmp_path), "--limit", "1"])
    mouths.main()
    clips = [row for row, _, _ in read_rows(tmp_path / "clips.jsonl")]
    assert [clip["split"] for clip in clips] == ["train", "dev", "test"]
    for clip in clips:
        seconds = len(read_audio(tmp_path / clip["audio"], 24_000)) / 24_000
        assert read_video(tmp_path / clip["video"]).shape == (round(seconds * 25), 96, 96, 3)
    # Nobody who is tested is trained on, and what is tested is said in the other tasks' tests too.
    train, test = ({row["speaker"] for row in mouths.chosen_rows([name], None)} for name in ("train", "test-unseen"))
    assert len(train) == 38 and len(test) == 6 and not train & test
    assert len(mouths.chosen_rows(["test-unseen"], None)) == 60
    written = (tmp_path / clips[0]["video"]).stat().st_mtime_ns
    mouths.main()
    assert (tmp_path / clips[0]["video"]).stat().st_mtime_ns == written
    assert "3 of 3 utterances" in capsys.readouterr().out
