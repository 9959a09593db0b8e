"""Every metric of a protocol on one utterance, and a fingerprint of what decides the numbers.

Shape letters: S samples.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics import signal
from metis_lightning.metrics.asr import offline_asr, require_english
from metis_lightning.metrics.dnsmos import COLUMNS, Dnsmos, model_files
from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.options import SuiteOptions
from metis_lightning.metrics.packages import require, versions
from metis_lightning.metrics.pesq import pesq
from metis_lightning.metrics.si_sdr import si_sdr
from metis_lightning.metrics.speaker import WEIGHTS, Ge2eEncoder
from metis_lightning.metrics.stoi import stoi
from metis_lightning.metrics.utterance import Utterance
from metis_lightning.metrics.values import MetricValue, WerValue, measure
from metis_lightning.metrics.wer import NORMALIZER, english_normalizer, word_errors

PROTOCOLS = ("offline",)

_PACKAGES = ("torch", "numpy", "soxr", "onnxruntime", "speechmos", "pesq", "pystoi", "jiwer", "whisper-normalizer")


class Suite:
    """All metrics of a protocol, with their models loaded once. No metric of the protocol "offline" downloads anything.

    Args:
        options: which metrics, by which back ends.
    """

    def __init__(self, options: SuiteOptions = SuiteOptions()) -> None:  # noqa: B008  (frozen)
        """Load every model now, so that a missing package ends the run before hours are spent.

        Raises:
            UserError: the protocol is unknown, a package is missing, or a model file is not the known one.
        """
        if options.protocol not in PROTOCOLS:
            raise UserError(f"unknown protocol '{options.protocol}': choose from {', '.join(PROTOCOLS)}")
        for package in ("pesq", "pystoi", "jiwer"):
            require(package, "eval")
        self.options = options
        self._dnsmos = Dnsmos(options.num_threads)
        self._speaker = Ge2eEncoder()
        self._normalize = english_normalizer()
        self._asr = offline_asr(options.num_threads)

    @property
    def wer_column(self) -> str | None:
        """The column of the word error rate of English utterances, named by its recogniser; None if it is left out."""
        return f"WER_{self._asr.name}"

    def score(self, utterance: Utterance) -> dict[str, MetricValue]:
        """Score one utterance; every column is always there, null with a reason where it has no value.

        Returns:
            DNSMOS_{SIG,BAK,OVRL,P808}, PESQ, STOI, SI_SDR (dB), SIM_ge2e (to the prompt), SIM_target_ge2e,
            SIM_margin_ge2e (to the target minus to the interferer), and `wer_column`, a `WerValue`.
        """
        waves = Waves(utterance)
        try:
            return {
                **measure(COLUMNS, lambda: self._dnsmos(waves["signal"])),
                **measure(("PESQ",), lambda: (pesq(*waves.pair()),)),
                **measure(("STOI",), lambda: (stoi(*waves.pair()),)),
                **measure(("SI_SDR",), lambda: (si_sdr(*waves.pair()),)),
                **self._similarities(waves),
                f"WER_{self._asr.name}": self._word_errors(waves, utterance.text, utterance.language),
            }
        except Exception as error:
            error.add_note(f"while scoring {utterance.id}")
            raise

    def _similarities(self, waves: Waves) -> dict[str, MetricValue]:
        embed = cache(lambda name: self._speaker.embed(waves[name]))

        def similarity(name: str) -> float:
            return float(embed("signal") @ embed(name))

        suffix = self._speaker.name
        return {
            **measure((f"SIM_{suffix}",), lambda: (similarity("prompt"),)),
            **measure((f"SIM_target_{suffix}",), lambda: (similarity("reference"),)),
            **measure((f"SIM_margin_{suffix}",), lambda: (similarity("reference") - similarity("interferer"),)),
        }

    def _word_errors(self, waves: Waves, text: str | None, language: str) -> WerValue:
        hypothesis = None
        try:
            if text is None:
                raise MetricError("no reference text")
            require_english(language, self._asr)
            hypothesis = self._asr.transcribe(waves["signal"])
            errors = word_errors(text, hypothesis, self._normalize)
        except MetricError as error:
            return WerValue(None, str(error), hypothesis=hypothesis)
        return WerValue(errors.rate, None, errors.edits, errors.words, hypothesis)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that decides the numbers, as plain JSON values."""
        onnx = {name: {"file": path.name, "sha256": sha256_of(path)} for name, path in model_files().items()}
        return {
            "protocol": self.options.protocol,
            "models": {
                **onnx,
                "speaker": {"name": self._speaker.name, "file": WEIGHTS.name, "sha256": sha256_of(WEIGHTS)},
                "asr": self._asr.fingerprint(),
            },
            "dnsmos": "dnsmos_local 591184a: 9.01 s windows, 1 s hop, not personalised",
            "pesq": "P.862.2 wide band",
            "stoi": "not extended",
            "si_sdr": "without the mean",
            "normalizer": NORMALIZER,
            "sample_rate": signal.METRIC_RATE,
            "resampler": signal.RESAMPLER,
            "max_length_difference": signal.MAX_LENGTH_DIFFERENCE,
            "packages": versions(_PACKAGES),
        }


class Waves:
    """The signals of one utterance at 16 kHz, resampled when first asked for."""

    def __init__(self, utterance: Utterance) -> None:
        """Keep the signals as given."""
        self._given = {
            "signal": utterance.generated,
            "reference": utterance.reference,
            "interferer": utterance.interferer,
            "prompt": utterance.prompt,
        }
        self._sample_rate = utterance.sample_rate
        self._ready: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one signal, (S,) float32.

        Raises:
            MetricError: it was not given, or it cannot be used.
        """
        if name not in self._ready:
            wave = self._given[name]
            if wave is None:
                raise MetricError(f"no {name}")
            self._ready[name] = signal.to_metric_rate(wave, self._sample_rate, name)
        return self._ready[name]

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Return signal and reference, cropped to the shorter.

        Raises:
            MetricError: one was not given or cannot be used, or they are not of one recording.
        """
        return signal.same_length(self["signal"], self["reference"])
