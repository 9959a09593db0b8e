"""Recordings as people have them, as sources and prompts: the right length, or one line; nothing is left out unsaid."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import soundfile

from every_task import Run, write_voice
from odd_audio import LYING, SOUND, apple_double, cover, encoded, make_pipe, mp3_frames, voice, write


@pytest.mark.parametrize(("name", "seconds"), [("mp3_no_length_cover", 3.03), ("opus_joined", 9.0), ("mp3_cut", 1.44)])
def test_a_result_lasts_as_long_as_its_source(folder: Path, generate: Run, name: str, seconds: float) -> None:
    source = write(folder, name)
    said = f"metis-lightning: {source}: truncated audio " if name == "mp3_cut" else ""
    status, error = generate("--task", "se", "--source", str(source), "--out", "out.wav")
    assert (status, error[: len(said)], error.count("\n")) == (0, said, bool(said))
    assert soundfile.info(folder / "out.wav").duration == pytest.approx(seconds, abs=0.06)


def test_chunks_end_where_the_sound_does(folder: Path, generate: Run) -> None:
    """A minute of which half was downloaded: behind its end was the decoder's old buffer once more."""
    data = encoded(voice(60.0), "MP3")
    (folder / "cut.mp3").write_bytes(data[: len(data) // 2])
    status, error = generate("--task", "se", "--source", "cut.mp3", "--out", "out.wav", "--chunk-seconds", "10")
    assert (status, error.count("\n")) == (0, 1)
    assert re.match(r"metis-lightning: cut.mp3: truncated audio \(\d+ of 1440000 samples\)", error)
    assert soundfile.info(folder / "out.wav").duration == pytest.approx(29.9, abs=0.2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flac_cut", "not a readable audio file"),
        ("kaldi_scale", "samples far beyond 1 .*divide them by their full scale"),
        ("opposite", "channels that cancel each other"),
        ("wav_too_short", "wrong length in the header .*it tells of 1.00 s, and 2.00 s follow"),
        ("wav_rate_1", "wrong sample rate .1 Hz"),
        ("nan", "NaN or infinite samples"),
        ("m4a", "use wav, flac, mp3, ogg or opus"),
    ],
)
@pytest.mark.parametrize("option", ["source", "prompt"])
def test_what_is_no_sound_is_one_line(folder: Path, generate: Run, name: str, message: str, option: str) -> None:
    files = {"source": "mix.wav", "prompt": "me.wav", option: str(write(folder, name))}
    status, error = generate(
        "--task", "tse", "--source", files["source"], "--prompt", files["prompt"], "--out", "out.wav"
    )
    assert status == 2
    assert error.count("\n") == 1
    assert name in error
    assert re.search(message, error, re.IGNORECASE)


def test_a_prompt_with_a_cover_is_as_long_as_it_sounds(folder: Path, generate: Run) -> None:
    (folder / "prompt.mp3").write_bytes(cover(900_000) + mp3_frames(3.0))
    status, error = generate("--task", "tse", "--source", "mix.wav", "--prompt", "prompt.mp3", "--out", "out.wav")
    assert (status, error) == (0, "")


@pytest.mark.timeout(60)
def test_a_folder_is_taken_whole_and_what_is_left_out_is_named(folder: Path, generate: Run) -> None:
    root, other = folder / "in", folder / "elsewhere"
    for name in ("day 1/take.wav", "day 2/take.wav", "[draft] #1 50%.WAV", "übung 你好.wav", "caf\u0065\u0301.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_voice(root / name, 0.5)
    other.mkdir()
    write_voice(other / "far.wav", 0.5)
    (root / "link").symlink_to(other)
    (root / "day 1" / "back").symlink_to(root)
    (root / "phone.m4a").write_bytes(LYING["m4a"][0])
    (root / "notes.txt").write_text("no sound")
    (root / "._take.wav").write_bytes(apple_double())
    make_pipe(root / "pipe.wav")
    (root / "streamed.wav").write_bytes(SOUND["wav_streamed_0"][0])
    status, error = generate("--task", "se", "--source", "in", "--out", "out")
    assert status == 0
    assert "left out of in: 1 .txt, 1 .m4a, the first notes.txt" in error
    made = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*.wav")}
    names = {"day 1/take.wav", "day 2/take.wav", "[draft] #1 50%.wav", "übung 你好.wav", "caf\u0065\u0301.wav"}
    assert made == names | {"link/far.wav", "streamed.wav"}


def test_a_name_in_latin_1_is_made_like_the_others(folder: Path, generate: Run) -> None:
    (folder / "in").mkdir()
    write_voice(folder / "in" / "fine.wav", 0.5)
    os.link(folder / "in" / "fine.wav", os.fsencode(folder / "in") + b"/stra\xdfe.wav")
    status, error = generate("--task", "se", "--source", "in", "--out", "out", "--play-list", "list.html")
    assert (status, error) == (0, "")
    made = sorted(os.listdir(os.fsencode(folder / "out")))
    assert made == [b"fine.wav", b"generated.jsonl", b"stra\xdfe.wav"]
    status, error = generate("--task", "se", "--source", "in", "--out", "out")
    assert "2 of 2 are there already" in error
