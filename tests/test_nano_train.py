"""`experiments/nano/train.sh` from beginning to end, cut off once: two steps of each run, few utterances."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from documented import REPOSITORY
from metis_lightning.cli import main as cli
from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.weights.bundle import ASSETS, read_index, read_part, write_part
from metis_lightning.weights.tensor_file import INT4

NEEDED = ("av", "phonemizer", "pocketsphinx", "pyworld")
RUNS = ("acoustic_codec", "pretrain", "s2a_1layer", "s2a_full", "omni", "l2s", "l2s_blind")
PARTS = {"ssl_features", "semantic_codec", "acoustic_codec", "stage1", "s2a_1layer", "s2a_full", "omni", "l2s"}
FORK = multiprocessing.get_context("fork")
# In the place of Python: says what is to be run, and waits for the status.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\0' "$@" > "$0.call"
read -r status < "$0.status"
exit "$status"
"""


def serve(python: Path) -> None:
    """Run what the stand-in says, each in a fork, which has torch and Lightning already; refuse what `.cut` names."""
    os.chdir(REPOSITORY)
    while True:
        words = Path(f"{python}.call").read_text().split("\0")[:-1]
        call = FORK.Process(target=run, args=(words,))
        if Path(f"{python}.cut").read_text() not in words:
            call.start()
            call.join()
        Path(f"{python}.status").write_text(f"{call.exitcode}\n" if call.pid else "1\n")


def run(words: list[str]) -> None:
    """Do what Python does of `-m MODULE …`, `-c CODE` or `SCRIPT …`."""
    sys.argv = words[words[0] == "-m" :]
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        exec(words[1])
    else:
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Path]:
    """The stand-in, with what serves it."""
    path = tmp_path / "python"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    for name in ("call", "status"):
        os.mkfifo(f"{path}.{name}")
    server = FORK.Process(target=serve, args=(path,))
    server.start()
    yield path
    server.terminate()
    server.join()


def generate(task: str, out: Path, *given: object) -> np.ndarray:
    """Return what `generate` says, in few steps, in the voice of a recording."""
    prompt = next((STARTER_ROOT / "audio/human/allison").glob("*.opus"))
    quick = ("--num-steps", 2, "--stage2-steps", 1, 1, 1, "--device", "cpu", "--prompt", prompt, "--out", out)
    assert cli.main([str(word) for word in ("generate", "--task", task, *quick, *given)]) == 0
    return soundfile.read(out)[0]


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="nano needs the extras offline, text, vc and video")
def test_the_chain_writes_every_part_and_goes_on_where_it_was_cut_off(python: Path, tmp_path: Path) -> None:
    bundle, runs = tmp_path / "bundle", tmp_path / "runs"
    # What would be downloaded; its statistics are computed anew.
    write_part(bundle, "ssl_features", read_part(ASSETS / "nano", "ssl_features"), INT4)
    given = {"PYTHON": str(python), "BUNDLE": str(bundle), "RUNS": str(runs), "UTTERANCES": "0", "LIMIT": "2"}

    def chain(cut: str) -> int:
        Path(f"{python}.cut").write_text(cut)
        return subprocess.run([REPOSITORY / "experiments/nano/train.sh"], env={**os.environ, **given}).returncode

    assert chain(cut="s2a_full") == 1
    assert set(read_index(bundle)["parts"]) == PARTS - {"s2a_full", "omni", "l2s"}
    checkpoints = [runs / name / "checkpoints/last.ckpt" for name in RUNS]
    assert [path.exists() for path in checkpoints] == [True] * 3 + [False] * 4
    written = [path.stat().st_mtime_ns for path in (*checkpoints[:3], bundle / "semantic_codec.safetensors")]
    assert chain(cut="nothing") == 0
    assert written == [path.stat().st_mtime_ns for path in (*checkpoints[:3], bundle / "semantic_codec.safetensors")]
    assert [torch.load(path, weights_only=True)["global_step"] for path in checkpoints] == [2] * 7

    parts, shipped = read_index(bundle)["parts"], read_index(ASSETS / "nano")["parts"]
    assert set(parts) == PARTS | {"visual_encoder"}
    assert not {part["sha256"] for part in parts.values()} & {part["sha256"] for part in shipped.values()}
    assert {parts[name]["config"]["base_sha256"] for name in ("omni", "l2s")} == {parts["stage1"]["sha256"]}
    video = next((runs / "mouths/video").glob("*.mp4"))
    seen = generate("l2s", tmp_path / "seen.wav", "--model", bundle, "--video", video)
    assert len(seen) > 24_000 and np.abs(seen).max() > 0
    source = next((STARTER_ROOT / "audio/human/carlo").glob("*.opus"))
    assert np.abs(generate("vc", tmp_path / "vc.wav", "--model", bundle, "--source", source)).max() > 0
    # The control hears of no mouth.
    blind = [
        generate(
            "l2s",
            tmp_path / f"{name}.wav",
            *("--model", runs / "blind.ckpt", "--base", bundle),
            *("--features", runs / f"mouths/{name}/{video.stem}.npy"),
        )
        for name in ("lips", "blank")
    ]
    assert np.array_equal(*blind)
