"""What `experiments/nano` makes before training: the corpus's manifest, units, and what is said of tokens."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from documented import REPOSITORY
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.recipes.recipe import PlainRecipe
from metis_lightning.tokens.whisper import WhisperFeatures
from metis_lightning.weights.build import load_tokenizer
from metis_lightning.weights.bundle import Part, read_index, write_part
from metis_lightning.weights.tensor_file import INT4

SCRIPTS = REPOSITORY / "experiments/nano"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> callable:
    """Return a script as a module; scripts import one another by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def loaded(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.fixture(scope="module")
def front_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a front end of random weights, and no statistics yet."""
    torch.manual_seed(0)
    features = WhisperFeatures(num_layers=1, dim=32, num_heads=2)
    folder = tmp_path_factory.mktemp("bundle")
    origin = {"licence": "MIT", "source": {"model": "of a test"}}
    part = Part({"kind": "whisper", **features.config()}, features.state_dict(), origin=origin)
    write_part(folder, "ssl_features", part, INT4)
    return folder


def test_k_means_finds_planted_directions(script: callable) -> None:
    generator = torch.Generator().manual_seed(1)
    planted = torch.nn.functional.normalize(torch.randn(12, 16, generator=generator))
    noise = 0.02 * torch.randn(12, 200, 16, generator=generator)
    directions = torch.nn.functional.normalize((planted[:, None] + noise).flatten(0, 1), dim=1)
    codes = script("k_means").spherical_k_means(directions, 48)
    assert torch.allclose(codes.norm(dim=1), torch.ones(48))
    # There are enough codes for each planted direction to be found.
    assert (planted @ codes.T).amax(dim=1).min() > 0.99


def test_units_are_fitted_to_features_of_zero_mean_and_unit_deviation(
    script: callable, front_end: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    k_means = script("k_means")
    options = ["--codes", "32", "--components", "8", "--utterances", "6"]
    monkeypatch.setattr(sys, "argv", ["k_means.py", "--bundle", str(front_end), *options])
    k_means.main()
    tokenizer = load_tokenizer(front_end)
    raw = k_means.raw_features(tokenizer.features, tokenizer.semantic_codec, 6)
    values = (raw - tokenizer.features.mean) / tokenizer.features.std
    assert values.mean(dim=0).abs().max() < 0.2 and (values.std(dim=0) - 1).abs().max() < 0.2
    tokens, latents = tokenizer.semantic_codec.quantize(values[None])
    assert len(tokens.unique()) > 16
    # What a token stands for points where its features do, as far as eight components reach.
    assert torch.nn.functional.cosine_similarity(latents[0], values, dim=1).mean() > 0.5
    assert read_index(front_end)["parts"]["ssl_features"]["licence"] == "MIT"
    stay = script("tokens").shares(front_end)
    assert set(stay) >= {"next frame", "-12 dB", "5 ms", "noise 5 dB", "voice 0 dB"}
    assert 0.9 < stay["-12 dB"] <= 1 and stay["voice 0 dB"] < stay["noise 15 dB"]


def test_the_corpus_lists_the_starter_corpus_and_what_was_made(script: callable, tmp_path: Path) -> None:
    made = {"id": "blend-200_00001", "path": "audio/blend-200_00001.opus", "speaker": "blend-200", "sex": "f"}
    made |= {"language": "en", "text": "Made.", "seconds": 1.0, "sample_rate": 24_000, "source": "synthetic"}
    made |= {"credit": "Kokoro-82M", "license": "CC0-1.0", "split": "train"}
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / made["path"], 0.1 * np.sin(np.arange(24_000) / 20), 24_000, format="OGG", subtype="OPUS")
    # A process that was killed may have listed an utterance that another made once more.
    (tmp_path / "records.0-2.jsonl").write_text(json.dumps(made) + "\n" + json.dumps(made) + "\n")
    corpus = script("corpus")
    for _ in range(2):
        corpus.write_manifest(tmp_path)
    data = StarterDataModule(PlainRecipe(), root=tmp_path)
    data.setup()
    utterances = data.corpora()["train"]
    ids = [u.id for u in utterances.utterances]
    assert ids.count(made["id"]) == 1 and len(ids) == 1341
    for name in (made["id"], ids[0]):
        assert len(utterances.wave(ids.index(name))) > 10_000
