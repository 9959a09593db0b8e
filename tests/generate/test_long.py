"""Long sources: as long as they were, in time, without clicks, in memory that does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from every_task import Run, voice, write_voice
from metis_lightning.generate.jobs import Job
from metis_lightning.generate.writer import SpeechWriter
from metis_lightning.pipeline import Metis, Request, Speech
from metis_lightning.sampling.long_audio import chunk_seed

RATE = 24_000


Batches = list[list[tuple[Request, int]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """The requests and seeds of the batches since; the source itself is the result."""
    batches: Batches = []

    def generate(metis: Metis, requests: list[Request], seeds: list[int], **options: object) -> list[Speech]:
        batches.append(list(zip(requests, seeds, strict=True)))
        tokens = torch.zeros(0, dtype=torch.long)
        return [Speech(request.source.clone(), RATE, tokens, tokens) for request in requests]

    monkeypatch.setattr(Metis, "generate", generate)
    return batches


def test_a_long_source_comes_back_as_it_was(generate: Run, folder: Path, asked: Batches) -> None:
    """With a model that changes nothing, chunks and joints change nothing either."""
    source = write_voice(folder / "long.wav", 97.3)
    assert generate("--task", "tse", "--source", "long.wav", "--prompt", "me.wav", "--out", "out.wav")[0] == 0
    (before, _), (after, rate) = (soundfile.read(path) for path in (source, folder / "out.wav"))
    assert (len(after), rate) == (len(before), RATE)
    assert np.abs(after - before).max() < 2e-4
    # Prompt and chunk fill the 30 s of training: 27 s follow one another by 25, and 60 s hold two of them.
    assert [[len(row.source) / RATE for row, _ in batch] for batch in asked] == [[27, 27], [27, pytest.approx(22.3)]]
    assert [seed for batch in asked for _, seed in batch] == [chunk_seed(0, number) for number in range(4)]
    assert all(len(row.prompt) == RATE for batch in asked for row, _ in batch)


def test_chunks_are_as_long_as_asked(generate: Run, folder: Path, asked: Batches) -> None:
    write_voice(folder / "long.wav", 40.0, rate=16_000, channels=2)
    args = ("--task", "se", "--source", "long.wav", "--chunk-seconds", "10", "--batch-seconds", "10", "--out", "o.wav")
    assert generate(*args)[0] == 0
    lengths = [len(row.source) / RATE for batch in asked for row, _ in batch]
    assert lengths == [8, 8, 8, 8, 8, 10]
    assert soundfile.info(folder / "o.wav").frames == 40 * RATE


def test_silence_stays_silent(generate: Run, folder: Path, asked: Batches) -> None:
    """A generative model would make sounds of it."""
    wave = np.concatenate([voice(15), np.zeros(40 * RATE), voice(15)])
    soundfile.write(folder / "long.wav", wave, RATE)
    assert generate("--task", "se", "--source", "long.wav", "--chunk-seconds", "10", "--out", "out.wav")[0] == 0
    assert sum(len(batch) for batch in asked) == 6
    assert np.abs(soundfile.read(folder / "out.wav")[0][18 * RATE : 52 * RATE]).max() == 0


@pytest.mark.parametrize("kind", ["silent", "not finite"])
def test_what_is_found_late_leaves_no_file(generate: Run, folder: Path, asked: Batches, kind: str) -> None:
    wave = np.zeros(80 * RATE, dtype=np.float32) if kind == "silent" else voice(80).astype(np.float32)
    wave[-1] = 0 if kind == "silent" else np.nan
    soundfile.write(folder / "long.wav", wave, RATE, subtype="FLOAT")
    before = sorted(path.name for path in folder.iterdir())
    status, err = generate("--task", "se", "--source", "long.wav", "--out", "out.wav")
    assert (status, len(err.splitlines())) == (2, 1)
    assert ("is silent" if kind == "silent" else "NaN or infinite samples") in err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_model_joins_without_clicks(every_task: Path, folder: Path) -> None:
    """The tiny bundle's random models make noise that differs from chunk to chunk, the hardest to join."""
    write_voice(folder / "long.wav", 60.0)
    writer = SpeechWriter(
        Metis.from_pretrained(str(every_task), "se"), {"num_steps": 2, "stage2_steps": (2, 1, 1)}, chunk_seconds=10.0
    )
    job = Job("se", "long", folder / "out.wav", {"source": "long.wav"})
    wave = torch.cat(list(writer.stream(job))).numpy()
    assert len(wave) == 60 * RATE
    jumps = np.abs(np.diff(wave))
    overlaps = [slice(start * RATE, (start + 2) * RATE) for start in range(6, 54, 6)]
    inside = np.concatenate([jumps[part.stop : part.start + 6 * RATE] for part in overlaps])
    windows = inside[: len(inside) // 960 * 960].reshape(-1, 960).max(axis=1)
    assert max(jumps[part].max() for part in overlaps) <= windows.max() * 1.05
    twice = torch.cat(list(writer.stream(job))).numpy()
    assert np.array_equal(wave, twice)


PEAK = """
import resource, sys
from metis_lightning.cli.main import main
options = "--task se --chunk-seconds 10 --batch-seconds 10 --num-steps 1 --stage2-steps 1 1 1 --device cpu"
assert main(["generate", *options.split(), "--model", sys.argv[1], "--source", sys.argv[2], "--out", "out.wav"]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mib(bundle: Path, source: Path) -> float:
    line = [sys.executable, "-c", PEAK, str(bundle), str(source)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=source.parent)
    return float(done.stdout.split()[-1])


def test_memory_does_not_grow_with_the_source(every_task: Path, tmp_path: Path) -> None:
    """By slope: two minutes more, 44 MiB at 48 kHz in stereo as float32, take less than 1 MiB a minute."""
    second = np.stack([voice(1, 48_000)] * 2, axis=1)
    for name, seconds in (("short", 30), ("long", 150)):
        soundfile.write(tmp_path / f"{name}.wav", np.tile(second, (seconds, 1)), 48_000)
    slope = (peak_mib(every_task, tmp_path / "long.wav") - peak_mib(every_task, tmp_path / "short.wav")) / 2
    assert slope < 1.0
