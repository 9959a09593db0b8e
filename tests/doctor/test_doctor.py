"""`doctor` finds nothing wrong with a sound run, finds each fault that is planted, and the largest batch."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from fake_corpora import voice
from metis_lightning.cli.main import main
from metis_lightning.doctor import environment, run
from metis_lightning.doctor.environment import environment_findings
from metis_lightning.doctor.main import DoctorOptions, Finding
from metis_lightning.doctor.memory import largest_batch, steps_of
from metis_lightning.doctor.run import run_findings
from tiny_run import SETTINGS

RATE = 24_000


class Setup:
    """A sound run in a folder: a corpus of mixtures, a config of two tasks, weights of its own."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.bundle = folder, folder / "bundle"
        shutil.copytree(bundle, self.bundle)
        self.rows = []
        for number in range(12):
            name, split = f"utt-{number:02}", "dev" if number > 7 else "train"
            seconds = 1.0 + 0.1 * number
            clean, other = voice(seconds, number, RATE), voice(seconds, number + 100, RATE)
            for kind, wave in (("clean", clean), ("mix", clean + other)):
                (folder / kind).mkdir(exist_ok=True)
                soundfile.write(folder / kind / f"{name}.wav", wave, RATE)
            row = {"id": name, "path": f"clean/{name}.wav", "heard": f"mix/{name}.wav", "speaker": f"s{number // 2}"}
            row |= {"text": "some words", "language": "en", "seconds": seconds, "sample_rate": RATE, "split": split}
            self.rows.append(row)
        recipe = {"class_path": "metis_lightning.data.recipes.tse.PairedRecipe", "init_args": {"prompts": False}}
        data = {"recipe": recipe, "manifest": str(folder / "m.jsonl"), "batch_seconds": 4}
        self.config = SETTINGS | {
            "data": {"class_path": "metis_lightning.data.batches.module.PreparedDataModule", "init_args": data},
            "model": {
                "class_path": "metis_lightning.tasks.conditioned.SeModule",
                "init_args": {"base": str(self.bundle), "lora_rank": 2, "adapter": "gated"},
            },
        }
        self.config["trainer"] = SETTINGS["trainer"] | {
            "logger": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"dirpath": str(folder / "checkpoints")},
                }
            ],
        }

    def arguments(self) -> list[str]:
        (self.folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        (self.folder / "c.yaml").write_text(yaml.safe_dump(self.config))
        return ["-c", str(self.folder / "c.yaml")]

    def wav(self, number: int, kind: str = "clean") -> Path:
        return self.folder / kind / f"utt-{number:02}.wav"


@pytest.fixture
def sound(tmp_path: Path, tiny_bundle: Path) -> Setup:
    return Setup(tmp_path, tiny_bundle)


def faults(findings: list[Finding]) -> list[str]:
    return [f"{each.check}: {each.text}; {each.cure}" for each in findings if each.status == "fault"]


def test_a_sound_run_has_no_fault_and_every_check_speaks(sound: Setup) -> None:
    found = list(run_findings(DoctorOptions(), sound.arguments()))
    assert faults(found) == []
    assert {each.check for each in found} == {"config", "weights", "data", "memory", "hours", "disk"}
    texts = " | ".join(each.text for each in found)
    assert "train: 8 utterances, 4 speakers" in texts and "dev: 4 utterances, 2 speakers" in texts
    assert "7 steps of " in texts


def change(number: int, **fields: object) -> Callable[[Setup, pytest.MonkeyPatch], None]:
    return lambda setup, patch: setup.rows[number].update(fields)


def model(**arguments: object) -> Callable[[Setup, pytest.MonkeyPatch], None]:
    return lambda setup, patch: setup.config["model"]["init_args"].update(arguments)


def data(**arguments: object) -> Callable[[Setup, pytest.MonkeyPatch], None]:
    return lambda setup, patch: setup.config["data"]["init_args"].update(arguments)


def trainer(**arguments: object) -> Callable[[Setup, pytest.MonkeyPatch], None]:
    return lambda setup, patch: setup.config["trainer"].update(arguments)


def truncate(setup: Setup, patch: pytest.MonkeyPatch) -> None:
    setup.wav(0).write_bytes(setup.wav(0).read_bytes()[:9000])


def silence(setup: Setup, patch: pytest.MonkeyPatch) -> None:
    soundfile.write(setup.wav(0), np.zeros(RATE), RATE)


def exchange(setup: Setup, patch: pytest.MonkeyPatch) -> None:
    soundfile.write(setup.wav(0, "mix"), voice(1.0, 55, RATE), RATE)


def checksum(setup: Setup, patch: pytest.MonkeyPatch) -> None:
    (setup.folder / "m.summary.json").write_text(json.dumps({"bytes": 12, "sha256": "0"}))


def corrupt(setup: Setup, patch: pytest.MonkeyPatch) -> None:
    file = setup.bundle / "s2a_full.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")


def no_noise(setup: Setup, patch: pytest.MonkeyPatch) -> None:
    (setup.folder / "noise").mkdir()
    recipe = {"class_path": "metis_lightning.data.recipes.se.SeRecipe"}
    setup.config["data"]["init_args"]["recipe"] = recipe | {"init_args": {"noise_root": str(setup.folder / "noise")}}


def full_disk(setup: Setup, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10, 10))


def no_texts(setup: Setup, patch: pytest.MonkeyPatch) -> None:
    setup.config["model"] = {
        "class_path": "metis_lightning.tasks.conditioned.TtsModule",
        "init_args": {"base": str(setup.bundle), "lora_rank": 2, "text": "utf8"},
    }
    setup.config["data"]["init_args"]["recipe"] = {"class_path": "metis_lightning.data.recipes.recipe.PlainRecipe"}
    for row in setup.rows:
        row["text"] = ""


FAULTS: dict[str, tuple[Callable[[Setup, pytest.MonkeyPatch], None], str]] = {
    "misspelt key": (model(lora_rnk=2), "config: unknown key 'lora_rnk'"),
    "no such bundle": (model(base="nanno"), "config: .*bundle 'nanno'"),
    "no GPU": (trainer(accelerator="gpu"), "config: trainer: .*gpu.*trainer.accelerator"),
    "no manifest": (data(manifest="nowhere.jsonl"), "data: nowhere.jsonl: no such manifest"),
    "changed manifest": (checksum, r"data: .*m.jsonl: not the manifest that m.summary.json is of"),
    "no file": (change(0, path="clean/none.wav"), "data: train: .*none.wav"),
    "cut file": (truncate, "data: train: .*utt-00"),
    "silent target": (silence, "data: train: utterance 'utt-00' is silent"),
    "listed longer": (change(0, seconds=9.0), "data: train: .*lasts 1.00 s, the manifest lists 'utt-00' with 9.00 s"),
    "other mixture": (exchange, "data: train: the mixture of 'utt-00' is not a sum with its target"),
    "no mixture": (change(0, heard=None), "data: train: utterance 'utt-00' has nothing `heard`"),
    "odd language": (change(3, language=7), "data: .*m.jsonl:4: field 'language' must be a string"),
    "nothing selected": (data(selection={"min_per_speaker": 99}), "data: .*nothing is left by"),
    "all too long": (data(max_seconds=0.5), "data: train: no utterance; loosen .*data.max_seconds"),
    "no noise": (no_noise, "data: .*noise: no wav or flac|data: .*noise: no .wav or .flac file"),
    "no tokens": (data(tokens="nowhere"), "data: .*(tokens|lacks|nowhere)"),
    "changed weights": (corrupt, "weights: .*s2a_full.safetensors: its SHA-256 is"),
    "no texts": (no_texts, "data: train: no texts, and the module reads them"),
    "full disk": (full_disk, "disk: .*0.0 GB free; make room"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, sound: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, expected = FAULTS[name]
    plant(sound, monkeypatch)
    options = DoctorOptions(no_steps=name != "full disk", files=12)
    found = faults(list(run_findings(options, sound.arguments())))
    assert len(found) >= 1
    assert any(re.search(expected, text) for text in found), found
    # With a cure behind each.
    assert all(text.rpartition("; ")[2] or "in all" in text for text in found)


def test_faults_of_the_machine_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.6.0", "numpy": None}
    installed = metadata.version

    def version(name: str) -> str:
        if versions.get(name, "") is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or installed(name)

    def broken(*args: object, format: str = "", **options: object) -> None:
        if format == "MP3":
            raise RuntimeError("no such format")
        soundfile_write(*args, format=format, **options)

    soundfile_write = soundfile.write
    monkeypatch.setattr(
        environment.metadata, "requires", lambda name: ["torch>=2.11,<2.14", "numpy>=2.4", "pesq; extra == 'eval'"]
    )
    monkeypatch.setattr(environment.metadata, "version", version)
    monkeypatch.setattr(environment.soundfile, "write", broken)
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    found = list(environment_findings())
    texts = faults(found)
    assert any("torch is 2.6.0; pip install 'torch<2.14,>=2.11'" in text for text in texts)
    assert any("not installed: numpy" in text for text in texts)
    assert any("fails on MP3" in text for text in texts)
    assert len(texts) == 3
    assert any(each.check == "GPU" and "driver" in each.text for each in found if each.status == "note")


def test_json_and_the_exit_status(sound: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    truncate(sound, pytest.MonkeyPatch())
    assert main(["doctor", "--json", "--no-steps", *sound.arguments()]) == 2
    said = capsys.readouterr()
    content = json.loads(said.out)
    assert content["faults"] == 1
    assert [each for each in content["findings"] if each["status"] == "fault"][0]["check"] == "data"
    assert "checks found a fault (data)" in said.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("fits_up_to", "start", "most"), [(70, 40, 1000), (10, 160, 1000), (5000, 60, 300), (0, 8, 99)]
)
def test_the_largest_size_is_found_by_bisection(fits_up_to: float, start: float, most: float) -> None:
    tried = []

    def fits(size: float) -> bool:
        tried.append(size)
        return size <= fits_up_to

    largest, above = largest_batch(fits, start, most)
    if fits_up_to >= most:
        assert (largest, above) == (most, None)
    elif fits_up_to == 0:
        assert largest == 0 and above is not None and above > 0
    else:
        assert above is not None and largest <= fits_up_to < above
        assert above - largest <= 0.05 * largest
    assert len(tried) <= 14


@pytest.mark.timeout(600)
def test_the_batch_that_is_found_fits_into_memory_and_the_next_does_not(sound: Setup) -> None:
    """A simulated limit: what the process addresses beyond what it holds when it begins to train."""
    recipe = SETTINGS["data"]["init_args"]["recipe"]
    sound.config["data"] = SETTINGS["data"] | {"init_args": {"recipe": recipe, "batch_seconds": 20}}
    sound.config["model"] = SETTINGS["model"]
    config = [*sound.arguments(), f"--model.tokenizer={sound.bundle}"]
    free = steps_of(config, 20, None)
    assert free is not None
    limit = free.memory + 120e6
    tried: dict[float, bool] = {}

    def fits(size: float) -> bool:
        tried[size] = steps_of(config, size, limit) is not None
        return tried[size]

    largest, above = largest_batch(fits, 20, 2000)
    assert above is not None, tried
    assert 20 <= largest < above <= 1.06 * largest
    assert steps_of(config, largest, limit) is not None
    assert steps_of(config, above, limit) is None
