"""What a suite of metrics is made of, as plain data: it travels to worker processes and into no model.

Imports neither numpy nor torch, so that a worker can cap its threads before anything starts them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SuiteOptions:
    """Which metrics, by which back ends. What is None is as the protocol has it (`metis_lightning.metrics.protocols`).

    Args:
        protocol: "offline" (back ends that ordinary packages carry) or "paper" (those of the paper).
        task: tts, vc, tse, se, l2s or omni: which metrics and similarities it has; None for all of them.
        asr: recognisers as `KIND[:SOURCE]` or `LANGUAGE=KIND[:SOURCE]`; the first that knows the language is asked.
            An empty tuple leaves the word error rate out.
        speakers: speaker encoders as `KIND[:SOURCE]`; an empty tuple leaves similarities out.
        nisqa: path of the published `nisqa.tar`; None leaves NISQA out of the protocol "offline".
        normalizer: "whisper-english", "seed-tts" or "none".
        device: of the recognisers and speaker encoders, "cpu" or "cuda"; everything else is on the CPU.
        num_threads: CPU threads of each model.
    """

    protocol: str = "offline"
    task: str | None = None
    asr: tuple[str, ...] | None = None
    speakers: tuple[str, ...] | None = None
    nisqa: str | None = None
    normalizer: str | None = None
    device: str = "cpu"
    num_threads: int = 1
