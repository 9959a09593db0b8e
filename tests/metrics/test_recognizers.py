"""Recognisers of optional packages, run through their real loading code on toy models in a folder."""

import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, HubertForCTC, WhisperForConditionalGeneration

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import model_folder, model_name
from metis_lightning.metrics.recognizers.base import Paraformer, Recognizers
from metis_lightning.metrics.recognizers.faster_whisper import FasterWhisper, FasterWhisperTiny, packaged_files
from metis_lightning.metrics.recognizers.transformers_models import HubertCtc, Whisper
from tiny_metric_models import make_hubert, make_whisper


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("models") / "toy-whisper")


@pytest.fixture(scope="module")
def hubert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hubert(tmp_path_factory.mktemp("models") / "toy-hubert")


def test_whisper_is_what_transformers_makes_of_it(whisper_folder: Path, clean: np.ndarray) -> None:
    ours = Whisper(str(whisper_folder))
    processor = AutoProcessor.from_pretrained(whisper_folder)
    model = WhisperForConditionalGeneration.from_pretrained(whisper_folder).eval()
    features = processor(clean, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        tokens = model.generate(features, language="en", task="transcribe", num_beams=1, do_sample=False)
    theirs = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert ours.transcribe(clean, "en") == theirs != ""
    assert ours.name == "toy-whisper"
    assert ours.languages is None
    fingerprint = json.loads(json.dumps(ours.identity))
    assert len(fingerprint["sha256"]["model.safetensors"]) == 64


def test_whisper_hears_more_than_thirty_seconds(whisper_folder: Path, clean: np.ndarray) -> None:
    long = np.tile(clean, 12)
    assert len(long) > 30 * 16_000
    assert isinstance(Whisper(str(whisper_folder)).transcribe(long), str)


def test_another_model_does_not_pass_for_the_papers(whisper_folder: Path, tmp_path: Path) -> None:
    claimed = tmp_path / "whisper-large-v3"
    shutil.copytree(whisper_folder, claimed)
    with pytest.raises(UserError, match=r"the model called whisper-large-v3 is another one \(d_model 16,"):
        Whisper(str(claimed))
    assert Whisper.published["whisper-large-v3"] == {
        "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "num_mel_bins": 128,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("openai/whisper-large-v3", "whisper-large-v3"),
        ("someone/whisper-large-v3", "someone-whisper-large-v3"),
        ("/models/whisper_large_v3", "whisper-large-v3"),
        ("large-v3", "large-v3"),
    ],
)
def test_names_in_columns_have_no_underscore_and_keep_the_owner(source: str, name: str) -> None:
    assert model_name(source, "openai") == name


def test_hubert_is_what_transformers_makes_of_it(hubert_folder: Path, clean: np.ndarray) -> None:
    ours = HubertCtc(str(hubert_folder))
    model = HubertForCTC.from_pretrained(hubert_folder).eval()
    normal = (clean - clean.mean()) / np.sqrt(clean.var() + 1e-7)
    with torch.no_grad():
        best = model(torch.from_numpy(normal)[None]).logits[0].argmax(dim=-1)
    # Blanks part letters that are said twice.
    symbols = {0: "", 1: "<s>", 2: "</s>", 3: "<unk>", 4: " ", 5: "A", 6: "B"}
    heard = "".join(symbols[token] for token in torch.unique_consecutive(best).tolist())
    assert "AA" in heard or "BB" in heard
    assert ours.transcribe(clean).split() == heard.split()
    with pytest.raises(MetricError, match="25 ms"):
        ours.transcribe(clean[:300])


def test_faster_whisper_has_a_name_of_its_own(speech: Callable[[str], np.ndarray], tmp_path: Path) -> None:
    folder = tmp_path / "faster-whisper-tiny.en"
    tiny = packaged_files(FasterWhisperTiny.requirements, ("model.bin", *FasterWhisperTiny.others))
    shutil.copytree(tiny["model.bin"].parent, folder)
    ours = FasterWhisper(str(folder))
    assert ours.name == "faster-whisper-tiny.en"
    assert ours.languages == {"en"}
    assert "simmer for half an hour" in ours.transcribe(speech("am-michael_0285"))
    assert set(ours.identity["sha256"]) == {"model.bin"}


def test_models_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="openai/whisper-large-v3 is not on this machine: set HF_HUB_OFFLINE=0"):
        Whisper("openai/whisper-large-v3")
    with pytest.raises(UserError, match="no folder with a metric model at ./nowhere"):
        model_folder("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json: not the config of a model"):
        Whisper(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="faster-whisper model .* cannot be loaded"):
        FasterWhisper(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="faster-whisper model large-v3 cannot be loaded .*HF_HUB_OFFLINE=0"):
        FasterWhisper("large-v3")
    monkeypatch.setitem(sys.modules, "funasr", None)
    with pytest.raises(UserError, match=r"'funasr' is not installed: run  pip install 'metis-lightning\[zh\]'"):
        Paraformer()


def test_paraformer_is_asked_as_seed_tts_eval_asks_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    asked: list[dict[str, Any]] = []

    class AutoModel:
        """Stands in for funasr's, which no test can download; what it is called with is the published evaluation's."""

        def __init__(self, **options: object) -> None:
            asked.append(options)
            self.model_path = str(tmp_path)

        def generate(self, **options: object) -> list[dict[str, str]]:
            asked.append(options)
            return [{"text": "歡迎"}]

    monkeypatch.setitem(sys.modules, "funasr", types.SimpleNamespace(AutoModel=AutoModel))
    convert = {"歡迎": "欢迎"}
    monkeypatch.setitem(sys.modules, "zhconv", types.SimpleNamespace(convert=lambda text, to: convert[text]))
    ours = Paraformer("paraformer-zh")
    assert ours.transcribe(np.ones(16_000, dtype=np.float32)) == "欢迎"
    assert ours.name == "paraformer-zh"
    assert set(ours.identity["sha256"]) == {"model.pt"}
    assert asked[0]["model"] == "paraformer-zh"
    assert asked[1]["input"].dtype == np.float32
    assert asked[1]["fs"] == 16_000


def test_the_first_that_knows_the_language_is_asked(whisper_folder: Path) -> None:
    both = Recognizers([f"zh=whisper:{whisper_folder}", "tiny.en"])
    assert both.require("en").name == "tiny.en"
    assert both.require("zh").name == "toy-whisper"
    with pytest.raises(MetricError, match="no recogniser of the language 'de' among toy-whisper, tiny.en"):
        both.require("de")
    with pytest.raises(UserError, match="unknown recogniser 'wisper': give .*KIND one of embedded, tiny.en"):
        Recognizers(["wisper"])
