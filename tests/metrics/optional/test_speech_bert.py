from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.metrics.optional.speech_bert import SpeechBertScoreMetric
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import TASKS

MakeItem = Callable[..., ScoringItem]
transformers = pytest.importorskip("transformers")
TTS = TASKS["tts"]


@pytest.fixture(scope="module", params=["HubertModel", "WavLMModel"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of two layers, as transformers writes it."""
    folder = tmp_path_factory.mktemp("encoders") / f"tiny-{request.param}"
    torch.manual_seed(0)
    kind = getattr(transformers, request.param)
    config = kind.config_class(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    kind(config).save_pretrained(folder)
    return folder


def test_equals_the_published_formula(encoder: Path, clean: np.ndarray, noisy: np.ndarray, item_of: MakeItem) -> None:
    ours = SpeechBertScoreMetric(SuiteOptions(), TTS, f"{encoder}@1")
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        # Lengths need not agree.
        a, b = (
            model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states[1][0]
            for wave in (noisy[:-9_000], clean)
        )
    cosines = (a @ b.T) / (a.norm(dim=1)[:, None] * b.norm(dim=1)[None])
    (value,) = ours.score(item_of(noisy[:-9_000], reference=clean)).values()
    assert value.value == pytest.approx(float(cosines.max(dim=1)[0].mean()), abs=1e-5)
    assert (value.value or 0) < 1.0
    (same,) = ours.score(item_of(clean, reference=clean)).values()
    assert same.value == pytest.approx(1.0, abs=1e-6)
    assert ours.columns[0].name == f"SPEECHBERT_{encoder.name.lower()}-1"


def test_reasons(encoder: Path, clean: np.ndarray, item_of: MakeItem) -> None:
    ours = SpeechBertScoreMetric(SuiteOptions(), TTS, f"{encoder}@2")
    (value,) = ours.score(item_of(clean)).values()
    assert value.error == "no reference"
    (value,) = ours.score(item_of(clean[:300], reference=clean)).values()
    assert value.error == "the signal is too short for speechbertscore: 25 ms are needed"
    with pytest.raises(UserError, match="the encoder has layers 0 to 2; give PATH@LAYER"):
        SpeechBertScoreMetric(SuiteOptions(), TTS, str(encoder))
    with pytest.raises(UserError, match="no folder with a metric model"):
        SpeechBertScoreMetric(SuiteOptions(), TTS, "nowhere@1")
