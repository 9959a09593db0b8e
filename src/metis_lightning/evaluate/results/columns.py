"""What a metric column's name says: the quantity, its unit, the model that made it, which direction is better."""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = {"WER": "%", "CER": "%", "SI_SDR": "dB", "SDR": "dB", "LSD": "dB", "MCD": "dB", "F0_RMSE": "Hz"}
_LOWER_IS_BETTER = {"WER", "CER", "RTF", "LSD", "MCD", "F0_RMSE", "STEPS"}


def word_errors_of(test_set: str) -> str:
    """Return how the word errors of a test set are counted in every table, whatever its name's punctuation.

    It is "mean", of the utterances' rates, for the lists of Seed-TTS-eval, as its own script counts; else "corpus", all
    edits over all words.

    >>> word_errors_of("seedtts-vc-en"), word_errors_of("SeedTTS test-en"), word_errors_of("vctk")
    ('mean', 'mean', 'corpus')
    """
    return "mean" if test_set.lower().replace("-", "").startswith("seedtts") else "corpus"


@dataclass(frozen=True)
class Column:
    """The parts of a column's name: `WER_tiny.en` is WER by tiny.en, `SIM_target_ge2e` is SIM_target by ge2e.

    >>> Column.of("SIM_target_ge2e")
    Column(quantity='SIM_target', model='ge2e')
    >>> Column.of("DNSMOS_SIG").title, Column.of("WER_tiny.en").title
    ('DNSMOS SIG ↑', 'WER % (tiny.en) ↓')
    """

    quantity: str
    model: str | None

    @classmethod
    def of(cls, metric: str) -> Column:
        """Return the parts of a name. Scores are in capitals (DNSMOS_SIG, SI_SDR), models are not."""
        quantity, _, last = metric.rpartition("_")
        return cls(quantity, last) if quantity and not last.isupper() else cls(metric, None)

    @property
    def is_word_errors(self) -> bool:
        """Whether rows have edits and words beside it."""
        return self.quantity in ("WER", "WER_asr")

    @property
    def unit(self) -> str:
        """The unit that it is shown in; empty for scores."""
        return _UNITS.get(self._measure, "")

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be in `unit`: error rates are fractions in our results."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self._measure not in _LOWER_IS_BETTER

    @property
    def _measure(self) -> str:
        """The quantity, whatever its texts come from: a corpus, or a recogniser ("_asr")."""
        return self.quantity.removesuffix("_asr")

    @property
    def name(self) -> str:
        """The quantity with its model in brackets."""
        words = self.quantity.replace("_", " ")
        return f"{words} ({self.model})" if self.model else words

    @property
    def title(self) -> str:
        """The name with its unit and the direction that is better."""
        words = [self.quantity.replace("_", " "), self.unit, f"({self.model})" if self.model else ""]
        return " ".join([*filter(None, words), "↑" if self.higher_is_better else "↓"])
