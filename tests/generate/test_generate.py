"""`generate` from files to files: each task, lists, folders, resuming, and the same result however it is asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from every_task import LIP_DIM, Run, write_voice
from metis_lightning.data.media.audio import read_audio, stream_audio
from metis_lightning.generate import writer
from metis_lightning.generate.main import INDEX
from metis_lightning.pipeline import Metis, Request

RATE = 24_000
VOICE = ("--prompt", "me.wav")
SAID = (*VOICE, "--prompt-text", "I said that.", "--text", "Say this.")


def content(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE and samples.ndim == 1
    return samples


@pytest.mark.parametrize(
    ("task", "args", "seconds"),
    [
        ("se", ("--source", "mix.wav"), 1.5),
        ("vc", ("--source", "mix.wav", *VOICE), 1.5),
        ("tse", ("--source", "mix.wav", *VOICE), 1.5),
        ("tts", SAID, 0.76),
        ("tts", (*SAID, "--seconds", "1.2", "--language", "fr", "--prompt-language", "en"), 1.2),
        ("l2s", (*VOICE, "--features", "lips.npy"), 1.0),
        ("omni", ("--source", "mix.wav"), 1.5),
        ("omni", ("--source", "mix.wav", *SAID), 1.5),
        ("omni", SAID, 0.76),
    ],
)
def test_each_task_writes_what_its_length_is(
    generate: Run, folder: Path, task: str, args: tuple[str, ...], seconds: float
) -> None:
    np.save(folder / "lips.npy", np.random.default_rng(0).standard_normal((25, LIP_DIM)).astype(np.float32))
    status, err = generate("--task", task, *args, "--out", "made.wav")
    assert status == 0, err
    assert len(content(folder / "made.wav")) == pytest.approx(seconds * RATE, abs=480)
    assert np.abs(content(folder / "made.wav")).max() > 0


def test_the_file_holds_what_the_pipeline_returns(generate: Run, folder: Path, every_task: Path) -> None:
    write_voice(folder / "in.flac", 1.5, rate=44_100, channels=2)
    assert generate("--task", "tse", "--source", "in.flac", *VOICE, "--seed", "3", "--out", "deep/er/made.flac")[0] == 0
    metis = Metis.from_pretrained(str(every_task), "tse")
    heard = Request("tse", read_audio(folder / "me.wav", RATE), read_audio(folder / "in.flac", RATE))
    expected = metis.generate([heard], 3, num_steps=2, stage2_steps=(2, 1, 1))[0].wave
    found, _ = soundfile.read(folder / "deep/er/made.flac", dtype="float32")
    assert np.abs(found - expected.clamp(-1, 1).numpy()).max() < 1e-4
    assert sorted(path.name for path in folder.rglob("*") if path.name.startswith(".")) == []


def test_a_single_result_in_a_folder_is_called_as_its_source(generate: Run, folder: Path) -> None:
    (folder / "made").mkdir()
    assert generate("--task", "se", "--source", "mix.wav", "--out", "made")[0] == 0
    assert [path.name for path in (folder / "made").iterdir()] == ["mix.wav"]


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 48_000])
def test_streamed_audio_is_read_audio(tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_voice(tmp_path / "a.wav", 3.21, rate=rate, channels=2)
    monkeypatch.setattr("metis_lightning.data.media.decoding.BLOCK", 2 * rate)
    blocks = list(stream_audio(path, RATE))
    assert len(blocks) >= 4
    whole = read_audio(path, RATE)
    streamed = torch.cat(blocks)
    assert abs(len(streamed) - len(whole)) <= 1
    shared = min(len(streamed), len(whole))
    assert torch.allclose(streamed[:shared], whole[:shared], atol=1e-4)


def test_a_list_gives_what_single_calls_give(generate: Run, folder: Path) -> None:
    for number in range(3):
        write_voice(folder / f"sounds/{number}.wav", 1.0 + 0.3 * number, seed=number)
    lines = ["id,source,prompt,seed", "a,sounds/0.wav,,", "b.2,sounds/1.wav,sounds/0.wav,", "c,sounds/2.wav,,5"]
    (folder / "jobs.csv").write_text("\n".join(lines) + "\n")
    # Away from the list's folder: its paths are relative to it.
    os.chdir(folder.parent)
    here = folder.name
    args = ("--task", "tse", "--prompt", f"{here}/me.wav")
    assert generate(*args, "--list", f"{here}/jobs.csv", "--out", f"{here}/made", "--batch-seconds", "9")[0] == 0
    made = folder / "made"
    assert sorted(path.name for path in made.iterdir()) == ["a.wav", "b.2.wav", "c.wav", INDEX]
    for name, source, prompt, seed in (("a", 0, "me.wav", 0), ("b.2", 1, "sounds/0.wav", 0), ("c", 2, "me.wav", 5)):
        single = ("--source", f"{here}/sounds/{source}.wav", "--prompt", f"{here}/{prompt}", "--seed", str(seed))
        assert generate("--task", "tse", *single, "--out", f"{here}/one.wav")[0] == 0
        assert np.array_equal(content(folder / "one.wav"), content(made / f"{name}.wav"))


def test_a_jsonl_of_texts_and_kinds(generate: Run, folder: Path) -> None:
    rows = [
        {"id": "said", "text": "Say this.", "prompt_text": "I said that.", "prompt": "me.wav", "seconds": 0.5},
        {"id": "clean", "source": "mix.wav"},
    ]
    (folder / "jobs.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert generate("--task", "omni", "--list", "jobs.jsonl", "--out", "made")[0] == 0
    assert len(content(folder / "made/said.wav")) == RATE // 2
    assert len(content(folder / "made/clean.wav")) == 1.5 * RATE


def test_a_folder_keeps_its_order_of_folders(generate: Run, folder: Path) -> None:
    for name in ("a.wav", "deep/er/b.FLAC", ".hidden/c.wav"):
        write_voice(folder / "in" / name, 1.0)
    (folder / "in/notes.txt").write_text("no sound")
    assert generate("--task", "se", "--source", "in", "--out", "made")[0] == 0
    made = sorted(path.relative_to(folder / "made").as_posix() for path in (folder / "made").rglob("*.wav"))
    assert made == ["a.wav", "deep/er/b.wav"]


def test_what_is_done_is_not_made_again(generate: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_voice(folder / f"in/{number}.wav", 1.0, seed=number)
    requested: list[str] = []
    request = writer.read_request
    monkeypatch.setattr(
        writer, "read_request", lambda metis, job, lips: (requested.append(job.id), request(metis, job, lips))[1]
    )

    def made(*args: str) -> list[str]:
        requested.clear()
        status, _ = generate("--task", "tse", "--source", "in", *VOICE, "--out", "made", *args)
        assert status == 0
        return sorted(requested)

    assert made() == ["0", "1", "2"]
    assert made() == []
    write_voice(folder / "in/1.wav", 1.1, seed=9)
    assert made() == ["1"]
    (folder / "made/2.wav").unlink()
    (folder / "made/0.wav").write_bytes(b"cut off")
    # As a crash may leave it.
    index = folder / "made" / INDEX
    index.write_text(index.read_text() + '{"id": "1", "finger')
    assert made() == ["0", "2"]
    assert made() == []
    assert made("--guidance-scale", "1.5") == ["0", "1", "2"]
    assert made("--guidance-scale", "1.5", "--seed", "1") == ["0", "1", "2"]
    write_voice(folder / "me.wav", 1.0, seed=7)
    assert made("--guidance-scale", "1.5", "--seed", "1") == ["0", "1", "2"]
    assert made("--guidance-scale", "1.5", "--seed", "1", "--batch-seconds", "2") == []


def test_an_interrupted_list_goes_on(generate: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write_voice(folder / f"in/{number}.wav", 1.0 + number / 10, seed=number)
    original, calls = Metis.generate, []

    def stopping(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(Metis, "generate", stopping)
    args = ("--task", "se", "--source", "in", "--out", "made", "--batch-seconds", "1")
    assert generate(*args)[0] == 130
    assert sorted(path.name for path in (folder / "made").iterdir()) == ["0.wav", "1.wav", INDEX]
    assert generate(*args)[0] == 0
    assert len(calls) == 3 + 2
    assert len(list((folder / "made").glob("*.wav"))) == 4


def test_a_bad_file_does_not_stop_a_folder(generate: Run, folder: Path) -> None:
    write_voice(folder / "in/a.wav", 1.0)
    (folder / "in/b.wav").write_bytes(b"no sound")
    soundfile.write(folder / "in/c.wav", np.zeros(RATE), RATE)
    status, err = generate("--task", "se", "--source", "in", "--out", "made")
    assert status == 2
    assert [path.name for path in (folder / "made").glob("*.wav")] == ["a.wav"]
    assert "in/b.wav: not a readable audio file" in err and "in/c.wav is silent" in err
    assert err.splitlines()[-1].startswith("metis-lightning: error: 2 of 3 could not be made, the first: ")


def test_a_play_list_holds_every_sound(generate: Run, folder: Path) -> None:
    name = "<b>&amp.wav"
    write_voice(folder / "in" / name, 1.0)
    write_voice(folder / "in/z.wav", 1.0)
    args = ("--task", "tse", "--source", "in", *VOICE, "--out", "made", "--play-list", "list.html")
    assert generate(*args)[0] == 0
    page = (folder / "list.html").read_text()
    assert page.count("data:audio/ogg;base64,T2dnU") == page.count("data:image/webp;base64,UklGR") == 2 * 3
    assert "<b>&amp" not in page and "&lt;b&gt;&amp;amp" in page
    assert "http:" not in page and "https:" not in page and "<script" not in page


def test_a_play_list_says_when_it_is_full(folder: Path) -> None:
    from metis_lightning.generate.jobs import Job
    from metis_lightning.generate.play_list import write_play_list

    jobs = [Job("se", str(number), folder / "mix.wav", {}) for number in range(3)]
    write_play_list(folder / "list.html", "title", jobs)
    whole = (folder / "list.html").read_text()
    assert whole.count("<section>") == 3 and "the page is full" not in whole
    write_play_list(folder / "list.html", "title", jobs, max_bytes=len(whole) * 2 // 3)
    page = (folder / "list.html").read_text()
    assert page.count("<section>") == 2
    assert "The first 2 of 3: the page is full." in page
