"""Options of a suite of metrics, and what a protocol makes of them.

Data only: it travels to worker processes, which cap their threads before anything imports numpy or torch.

The paper's protocol is that of Metis, appendix C. Where the paper does not say, the choice stands here:

- similarity is to the prompt by WavLM-large with ECAPA-TDNN; for enhancement, which has no prompt, to the clean speech
  by wavlm-base-plus-sv, which has another scale;
- texts are normalised by the Seed-TTS rules (the paper does not say by which);
- NISQA rates what was generated at its own rate; for enhancement at 16 kHz, as the paper resamples there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from metis_lightning.errors import UserError
from metis_lightning.task_table import TASKS, Task

PROTOCOLS = ("offline", "paper")


@dataclass(frozen=True)
class SuiteOptions:
    """Which metrics, by which back ends. What is None is as the protocol has it.

    protocol: "offline" (back ends that ordinary packages carry) or "paper" (those of the paper).
    task: of `task_table.TASKS`: which metrics and similarities it has; None for all of them.
    asr: recognisers as `[LANGUAGE=]KIND[:SOURCE]`; the first that knows the language is taken, () leaves WER out.
    speakers: speaker encoders as `KIND[:SOURCE]`; () leaves similarities out.
    nisqa: path of the published `nisqa.tar`; None leaves NISQA out of the protocol "offline".
    normalizer: "whisper", "whisper-english", "seed-tts" or "none".
    metrics: further ones, as KIND[:SOURCE] or MODULE:FUNCTION (see `requested`).
    device: of the recognisers and speaker encoders, "cpu" or "cuda"; everything else is on the CPU.
    num_threads: CPU threads of each model.
    """

    protocol: str = "offline"
    task: str | None = None
    asr: tuple[str, ...] | None = None
    speakers: tuple[str, ...] | None = None
    nisqa: str | None = None
    normalizer: str | None = None
    metrics: tuple[str, ...] = ()
    device: str = "cpu"
    num_threads: int = 1


def resolve(options: SuiteOptions) -> tuple[SuiteOptions, Task]:
    """Fill in what the protocol decides, and return the task, too. A `UserError` if it needs a path, or is unknown."""
    if options.protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol '{options.protocol}': choose from {', '.join(PROTOCOLS)}")
    if options.task is not None and options.task not in TASKS:
        raise UserError(f"unknown task '{options.task}': choose one of {', '.join(TASKS)}")
    task = Task("") if options.task is None else TASKS[options.task]
    is_paper = options.protocol == "paper"
    if is_paper:
        asr: tuple[str, ...] = ("zh=paraformer:paraformer-zh", "whisper:openai/whisper-large-v3")
        speakers, normalizer = task.paper_speakers, "seed-tts"
    else:
        asr, speakers, normalizer = ("embedded", "base"), ("ge2e",), "whisper"
    asr = asr if options.asr is None else options.asr
    speakers = speakers if options.speakers is None else options.speakers
    # No hub has these models of the paper; all that lack a path are named at once.
    absent = []
    if is_paper and "wavlm-large" in speakers:
        absent.append("the speaker encoder, as 'wavlm-large:PATH' of UniSpeech's wavlm_large_finetune.pth")
    if is_paper and options.nisqa is None:
        absent.append("NISQA, the path of nisqa.tar of github.com/gabrielmittag/NISQA")
    if absent:
        raise UserError(f"the protocol 'paper' needs models that are on no hub: give {'; and '.join(absent)}")
    return replace(options, asr=asr, speakers=speakers, normalizer=options.normalizer or normalizer), task
