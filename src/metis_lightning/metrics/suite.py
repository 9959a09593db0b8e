"""Every metric of a protocol on one utterance, and a fingerprint of what decides the numbers.

Shape letters: S samples.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from metis_lightning import texts
from metis_lightning.files import sha256_of
from metis_lightning.metrics import protocols, signal
from metis_lightning.metrics import wer as loops
from metis_lightning.metrics.dnsmos import COLUMNS as DNSMOS_COLUMNS
from metis_lightning.metrics.dnsmos import Dnsmos, model_files
from metis_lightning.metrics.metric import MetricError, MetricValue, measure
from metis_lightning.metrics.nisqa import COLUMNS as NISQA_COLUMNS
from metis_lightning.metrics.nisqa import Nisqa
from metis_lightning.metrics.packages import require, versions
from metis_lightning.metrics.pesq import pesq
from metis_lightning.metrics.protocols import PROTOCOLS, SuiteOptions
from metis_lightning.metrics.recognizers.choice import Recognizers
from metis_lightning.metrics.si_sdr import si_sdr
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.metrics.speakers.base import SpeakerEncoder, speaker_encoder
from metis_lightning.metrics.speed import real_time_factor
from metis_lightning.metrics.stoi import SEED, intelligibility
from metis_lightning.metrics.text import NORMALIZERS
from metis_lightning.metrics.word_scores import Recorded, WordScores

__all__ = ["PROTOCOLS", "Suite", "SuiteOptions"]

_PACKAGES = ("torch", "numpy", "soxr", "onnxruntime", "speechmos", "pesq", "pystoi", "jiwer")
"""For the record: the numbers are the same by every version that is let in."""

_RULES = ("whisper-normalizer", "zhconv")
"""Packages that are rules for texts: another version may count other words."""


class Suite:
    """All metrics of a protocol, with their models loaded once. No metric of the protocol "offline" downloads anything.

    Args:
        options: which metrics, by which back ends.
    """

    def __init__(self, options: SuiteOptions = SuiteOptions()) -> None:  # noqa: B008  (frozen)
        """Load every model now, so that a missing package ends the run before hours are spent.

        Raises:
            UserError: the protocol is unknown, a package is missing, or a model is missing or not the known one.
        """
        self.options = protocols.resolve(options)
        self.task = protocols.task_metrics(options.task)
        for package in ("pesq", "pystoi", "jiwer"):
            require(package, "eval")
        device, threads = self.options.device, self.options.num_threads
        # Weights that the user has to fetch come first: their absence is what ends most runs.
        self._nisqa = Nisqa(self.options.nisqa) if self.options.nisqa else None
        self._speakers = [speaker_encoder(spec, device) for spec in self.options.speakers or ()]
        self._words = WordScores(
            Recognizers(self.options.asr or (), device, threads),
            self.options.normalizer or "whisper-english",
            caps_loops=protocols.caps_loops(self.options.protocol),
        )
        self._dnsmos = Dnsmos(threads)

    @property
    def wer_column(self) -> str | None:
        """The column of the word error rate of English utterances, named by its recogniser; None if it is left out."""
        return self._words.column("en")

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Score one utterance; every column is always there, null with a reason where it has no value.

        Of a signal in which nothing can be heard all words are deleted: WER and CER are 1, with the reason beside it.

        Returns:
            DNSMOS_{SIG,BAK,OVRL,P808}; NISQA and its dimensions if there are weights; PESQ, PESQ_NB, STOI, ESTOI and
            SI_SDR (dB) for tasks that keep the reference's timing; for each speaker encoder, named in the column,
            SIM_… (to the prompt), SIM_target_… (to the reference) and SIM_margin_… (to the reference less to the
            interferer), as the task has them; WER_… and CER_… with the name of the recogniser that the utterance's
            language has, the first a `WerValue`, and named WER_asr_… and CER_asr_… where the text is what that
            recogniser hears in a recording; RTF and STEPS if the utterance has them.
        """
        try:
            return {
                **measure(DNSMOS_COLUMNS, lambda: self._dnsmos(item.wave("generated"))),
                **self._quality(item),
                **self._intrusive(item),
                **{key: value for encoder in self._speakers for key, value in self._similar(encoder, item).items()},
                **self._words.score(lambda: item.wave("generated"), self._text(item), item.language),
                **_speed(item),
            }
        except Exception as error:
            error.add_note(f"while scoring {item.id}")
            raise

    def _text(self, item: ScoringItem) -> str | Recorded | None:
        """Return what should be heard."""
        if item.text_recording is None:
            return item.text
        return lambda: item.wave("text_recording")

    def _quality(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return NISQA."""
        nisqa = self._nisqa
        if nisqa is None:
            return {}
        if self.task.nisqa_rate == signal.METRIC_RATE:
            return measure(NISQA_COLUMNS, lambda: nisqa(item.wave("generated"), signal.METRIC_RATE))
        given = item
        return measure(NISQA_COLUMNS, lambda: nisqa(given.generated, given.sample_rate))

    def _intrusive(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return what compares sample by sample."""
        if not self.task.is_aligned:
            return {}
        return {
            **measure(("PESQ",), lambda: (pesq(*item.pair()),)),
            **measure(("PESQ_NB",), lambda: (pesq(*item.pair(), "nb"),)),
            **measure(("STOI", "ESTOI"), lambda: intelligibility(*item.pair())),
            **measure(("SI_SDR",), lambda: (si_sdr(*item.pair()),)),
        }

    def _similar(self, encoder: SpeakerEncoder, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the similarities of one encoder."""

        @cache
        def embed(name: str) -> Tensor:
            wave = item.wave(name)
            try:
                return encoder.embed(wave)
            except MetricError as error:
                # Encoders call whatever they hear the signal.
                raise MetricError(str(error) if name == "generated" else f"the {name}: {error}") from error

        def similarity(name: str) -> float:
            other = embed(name)
            return float(embed("generated") @ other)

        ways = {
            "prompt": ("SIM", lambda: (similarity("prompt"),)),
            "reference": ("SIM_target", lambda: (similarity("reference"),)),
            "margin": ("SIM_margin", lambda: (similarity("reference") - similarity("interferer"),)),
        }
        chosen = [ways[name] for name in self.task.similar_to]
        return {
            key: value
            for column, score in chosen
            for key, value in measure((f"{column}_{encoder.name}",), score).items()
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that decides the numbers, as plain JSON values."""
        onnx = {name: {"file": path.name, "sha256": sha256_of(path)} for name, path in model_files().items()}
        return {
            "protocol": self.options.protocol,
            "task": self.options.task,
            "models": {
                **onnx,
                "nisqa": self._nisqa and self._nisqa.fingerprint(),
                "speakers": [encoder.fingerprint() for encoder in self._speakers],
                "asr": self._words.recognizers.fingerprint(),
            },
            "dnsmos": "dnsmos_local 591184a: 9.01 s windows, 1 s hop, not personalised",
            "nisqa_rate": self.task.nisqa_rate,
            "pesq": "P.862.2 wide band; P.862.1 narrow band",
            "stoi": f"not extended, and extended with noise of seed {SEED}",
            "si_sdr": "without the mean",
            "normalizer": NORMALIZERS[self._words.rules],
            "normalizer_versions": versions(_RULES),
            "texts": texts.RULES,
            "asr_loops": loops.CAPPED if self._words.caps_loops else loops.AS_HEARD,
            "nothing_heard": "all words deleted",
            "sample_rate": signal.METRIC_RATE,
            "resampler": signal.RESAMPLER,
            "max_length_difference": signal.MAX_LENGTH_DIFFERENCE,
            "packages": versions(_PACKAGES),
        }


def _speed(item: ScoringItem) -> dict[str, MetricValue]:
    """Return the real-time factor and the steps, where they are known."""
    seconds, steps = item.seconds, item.num_steps
    spoken = len(item.generated) / item.sample_rate
    return {
        **({} if seconds is None else measure(("RTF",), lambda: (real_time_factor(seconds, spoken),))),
        **({} if steps is None else {"STEPS": MetricValue(float(steps))}),
    }
