import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import ErrorRate
from metis_lightning.metrics.optional.phonemes import CtcPhonemes, Hama, LpsMetric, PerMetric, edit_distance
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import TASKS

MakeItem = Callable[..., ScoringItem]
TTS = TASKS["tts"]
SAID = "Red sandstone cliffs glow like embers when the evening sun strikes them."
SPEAKS = "af-alloy_0585"


@pytest.fixture(scope="module")
def hama() -> Hama:
    pytest.importorskip("hama")
    return Hama()


def levenshtein(a: list[str], b: list[str]) -> int:
    before = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        here = [i]
        for j, y in enumerate(b, 1):
            here.append(min(before[j] + 1, here[-1] + 1, before[j - 1] + (x != y)))
        before = here
    return before[-1]


def test_edits_equal_the_recursion() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = ([f"p{each}" for each in random.integers(5, size=random.integers(1, 12))] for _ in range(2))
        assert edit_distance(a, b) == levenshtein(a, b)


def test_phonemes_equal_the_packages_own_decoding(hama: Hama, speech: Callable[[str], np.ndarray]) -> None:
    from hama import ASRModel, G2PModel

    wave = speech(SPEAKS)
    assert hama.transcribe(wave) == ASRModel()(wave, 16_000).phonemes
    # "cliffs": every symbol that its rules write is one of the recogniser's.
    assert "".join(hama.read("Cliffs!")) == G2PModel().predict("cliffs").display_ipa.replace("ː", "").replace(" ", "")


def test_errors_of_speech_are_few_and_of_another_text_many(
    hama: Hama, speech: Callable[[str], np.ndarray], item_of: MakeItem
) -> None:
    per = PerMetric(SuiteOptions(), TTS)
    wave = speech(SPEAKS)
    right, wrong = (
        per.score(item_of(wave, text=text))["PER_hama"] for text in (SAID, "My neighbour keeps seventeen chickens.")
    )
    assert isinstance(right, ErrorRate)
    assert right.edits is not None and right.edits < 0.2 * (right.length or 0)
    assert (wrong.value or 0) > 0.6
    assert right.value == (right.edits or 0) / (right.length or 1)
    assert right.edits == levenshtein(hama.read(SAID), hama.transcribe(wave))


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        (None, "en", "no reference text"),
        ("…", "en", "the reference text has no words"),
        ("42 days", "en", "the reference text has figures, which are not read aloud"),
        ("你好", "zh", "the reference text is in 'zh', which is not read aloud"),
    ],
)
def test_texts_that_are_not_read_have_reasons(
    hama: Hama, item_of: MakeItem, clean: np.ndarray, text: str | None, language: str, reason: str
) -> None:
    value = PerMetric(SuiteOptions(), TTS).score(item_of(clean, text=text, language=language))["PER_hama"]
    assert (value.value, value.error) == (None, reason)


def test_of_silence_all_phonemes_are_deleted(hama: Hama, item_of: MakeItem) -> None:
    value = PerMetric(SuiteOptions(), TTS).score(item_of(np.zeros(16_000), text=SAID))["PER_hama"]
    assert (value.value, value.error) == (1.0, "the signal is silent")


def test_similarity_to_the_reference(hama: Hama, clean: np.ndarray, longer: np.ndarray, item_of: MakeItem) -> None:
    lps = LpsMetric(SuiteOptions(), TTS)
    same, other = (lps.score(item_of(wave, reference=clean))["LPS_hama"].value for wave in (clean, longer))
    assert same == 1.0
    expected = hama.transcribe(clean)
    assert other == pytest.approx(1 - levenshtein(expected, hama.transcribe(longer)) / len(expected))
    assert (other or 0) < 0.2
    assert lps.score(item_of(clean))["LPS_hama"].error == "no reference"


def test_loud_audio_is_brought_within_full_scale(hama: Hama, clean: np.ndarray) -> None:
    loud = clean / np.abs(clean).max()
    assert hama.transcribe(40.0 * loud) == hama.transcribe(loud)


SYMBOLS = ["<pad>", "<s>", "</s>", "<unk>", "|", "a", "aː", "b", "d", "ɛ", "k", "s", "t", "θ"]


@pytest.fixture(scope="module")
def ctc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CTC model of phonemes, as transformers writes it beside a vocabulary."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "wav2vec2-tiny-phonemes"
    torch.manual_seed(1)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(SYMBOLS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, pad_token_id=0,
    )  # fmt: skip
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16_000).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({symbol: index for index, symbol in enumerate(SYMBOLS)}))
    return folder


def test_any_ctc_model_hears_what_its_tokenizer_decodes(ctc_folder: Path, speech: Callable[[str], np.ndarray]) -> None:
    import transformers

    ours, wave = CtcPhonemes(str(ctc_folder), "cpu"), speech(SPEAKS)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(ctc_folder / "vocab.json")
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(ctc_folder)
    model = transformers.Wav2Vec2ForCTC.from_pretrained(ctc_folder).eval()
    with torch.no_grad():
        logits = model(extractor(wave, sampling_rate=16_000, return_tensors="pt").input_values).logits
    decoded = tokenizer.decode(logits[0].argmax(-1)).replace(" ", "")
    for special in ("<s>", "</s>", "<unk>"):
        decoded = decoded.replace(special, "")
    heard = ours.transcribe(wave)
    assert len(heard) > 3
    assert "".join(heard) == decoded


def test_similarity_by_any_ctc_model(ctc_folder: Path, clean: np.ndarray, item_of: MakeItem) -> None:
    lps = LpsMetric(SuiteOptions(), TTS, str(ctc_folder))
    assert lps.columns[0].name == "LPS_wav2vec2-tiny-phonemes"
    assert lps.score(item_of(clean, reference=clean))[lps.columns[0].name].value == 1.0
    assert "model.safetensors" in lps.models["lps wav2vec2-tiny-phonemes"]["sha256"]


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the folder of a complete"):
        CtcPhonemes(str(tmp_path), "cpu")
