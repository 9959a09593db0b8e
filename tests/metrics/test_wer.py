import jiwer
import pytest

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.text import whisper_normalizer
from metis_lightning.metrics.wer import WordErrors, word_errors


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits", "words"),
    [
        ("the cat sat", "the cat sat", 0, 3),
        ("the cat sat", "the hat sat", 1, 3),  # substitution
        ("the cat sat", "the sat", 1, 3),  # deletion
        ("the cat sat", "the cat sat down", 1, 3),  # insertion
        ("the cat sat", "", 3, 3),
        ("yes", "oh yes oh yes oh yes", 5, 1),  # a loop counts in full
    ],
)
def test_counts(reference: str, hypothesis: str, edits: int, words: int) -> None:
    errors = word_errors(reference, hypothesis, str.lower)
    assert errors == WordErrors(edits, words)
    if hypothesis:
        assert errors.edits / errors.words == pytest.approx(jiwer.wer(reference, hypothesis))


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("My neighbour keeps seventeen chickens.", "my neighbor keeps 17 chickens"),
        ("Press 1 now, isn't it?", "PRESS ONE NOW IS NOT IT"),
        ("Forty geese flew over - all the way!", "40 geese flew over all the way"),
    ],
)
def test_normaliser_forgives_spelling(reference: str, hypothesis: str) -> None:
    assert word_errors(reference, hypothesis, whisper_normalizer("en")).edits == 0


def test_reference_without_words_has_no_rate() -> None:
    with pytest.raises(MetricError, match="no words"):
        word_errors(" ... ", "hello", whisper_normalizer("en"))
