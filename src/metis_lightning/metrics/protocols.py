"""What a suite of metrics is made of, as plain data: it travels to worker processes and into no model.

Imports neither numpy nor torch, so that a worker can cap its threads before anything starts them.

What a protocol and a task decide: the back ends, and what is compared with what. Data only.

The paper's protocol is that of Metis, appendix C. Where the paper does not say, the choice stands here:

- similarity is to the prompt by WavLM-large with ECAPA-TDNN; for enhancement, which has no prompt, to the clean speech
  by wavlm-base-plus-sv, which has another scale;
- texts are normalised by the Seed-TTS rules (the paper does not say by which);
- NISQA hears what was generated at its own rate; for enhancement at 16 kHz, as the paper resamples there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from metis_lightning.errors import UserError


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


PROTOCOLS = ("offline", "paper")

WAVLM_LARGE, WAVLM_SV = "wavlm-large", "wavlm-sv"


@dataclass(frozen=True)
class TaskMetrics:
    """What is measured for a task.

    Args:
        similar_to: what a voice is compared with: "prompt", "reference", and "margin" (to the reference, less to the
            interferer).
        is_aligned: whether what is generated has the timing of the reference, so that PESQ, STOI, ESTOI and SI-SDR
            mean something.
        paper_speakers: the paper's speaker encoders.
        nisqa_rate: sample rate in Hz at which NISQA hears; None for that of the generated signal.
    """

    similar_to: tuple[str, ...] = ("prompt", "reference", "margin")
    is_aligned: bool = True
    paper_speakers: tuple[str, ...] = (WAVLM_LARGE,)
    nisqa_rate: int | None = None


TASKS: dict[str | None, TaskMetrics] = {
    None: TaskMetrics(),
    "tts": TaskMetrics(("prompt", "reference"), is_aligned=False),
    "vc": TaskMetrics(("prompt", "reference"), is_aligned=False),
    "tse": TaskMetrics(),
    # The paper gives no WER for enhancement; ours is counted all the same where there is a text.
    "se": TaskMetrics(("reference",), paper_speakers=(WAVLM_SV,), nisqa_rate=16_000),
    "l2s": TaskMetrics(("prompt", "reference")),
    "omni": TaskMetrics(paper_speakers=(WAVLM_LARGE, WAVLM_SV)),
}
"""By task; None for everything that there is."""


def task_metrics(task: str | None) -> TaskMetrics:
    """Return what is measured for a task.

    Raises:
        UserError: there is no such task.
    """
    if task not in TASKS:
        raise UserError(f"unknown task '{task}': choose one of {', '.join(name for name in TASKS if name)}")
    return TASKS[task]


def caps_loops(protocol: str) -> bool:
    """Return whether a recogniser's loop counts as 100% of word errors at most: the paper's has no such rule."""
    return protocol != "paper"


def resolve(options: SuiteOptions) -> SuiteOptions:
    """Return options with what the protocol decides filled in.

    Raises:
        UserError: the protocol or the task is unknown, or the paper's protocol needs a path that is not given.
    """
    if options.protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol '{options.protocol}': choose from {', '.join(PROTOCOLS)}")
    task = task_metrics(options.task)
    return _paper(options, task) if options.protocol == "paper" else _offline(options)


def _offline(options: SuiteOptions) -> SuiteOptions:
    return replace(
        options,
        asr=("embedded",) if options.asr is None else options.asr,
        speakers=("ge2e",) if options.speakers is None else options.speakers,
        normalizer=options.normalizer or "whisper-english",
    )


def _paper(options: SuiteOptions, task: TaskMetrics) -> SuiteOptions:
    """Fill in the paper's back ends; whatever has no path and no place on the hub is said at once, all together."""
    wanted = options.speakers if options.speakers is not None else task.paper_speakers
    missing = []
    if WAVLM_LARGE in wanted:
        missing.append(f"the speaker encoder, as '{WAVLM_LARGE}:PATH' of UniSpeech's wavlm_large_finetune.pth")
    if options.nisqa is None:
        missing.append("NISQA, the path of nisqa.tar of github.com/gabrielmittag/NISQA")
    if missing:
        raise UserError(f"the protocol 'paper' needs models that are on no hub: give {'; and '.join(missing)}")
    whisper = ("zh=paraformer:paraformer-zh", "whisper:openai/whisper-large-v3")
    return replace(
        options,
        asr=whisper if options.asr is None else options.asr,
        speakers=wanted,
        normalizer=options.normalizer or "seed-tts",
    )
