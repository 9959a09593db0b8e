"""The tasks: one record each, read by inference, evaluation, `generate`, the app and the metrics, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from metis_lightning.sampling.settings import Sampling, Settings


@dataclass(frozen=True)
class Task:
    """A task of the model.

    name: of the weights, of test lists and of commands.
    title, about, labels: how the app shows it and its inputs.
    condition: what the result is made of: "source" (sound), "features" (lips), or "any" of the two; None if of text.
    needs: inputs by name, alternatives together, of which one must be given.
    optional: those that may be left out; among them the text by which a task is guided beside its condition.
    settings: the released ones of the sampler.
    is_aligned: whether the result has the timing of the reference, so that PESQ, STOI, ESTOI and SI-SDR mean something.
    similar_to: what a result's voice is compared with; "margin" is to the reference less to the interferer.
    paper_speakers: speaker encoders of the paper's protocol.
    nisqa_rate: sample rate in Hz at which NISQA hears the result; None for its own.
    covers: the tasks that weights of this one serve, each asked as its own; the rest of the record is not used then.
    """

    name: str
    title: str = ""
    about: str = ""
    condition: Literal["source", "features", "any"] | None = None
    needs: tuple[tuple[str, ...], ...] = ()
    optional: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    is_aligned: bool = True
    similar_to: tuple[str, ...] = ("prompt", "reference", "margin")
    paper_speakers: tuple[str, ...] = ("wavlm-large",)
    nisqa_rate: int | None = None
    covers: tuple[str, ...] = ()

    @property
    def inputs(self) -> set[str]:
        """Names of all inputs."""
        return {name for names in (*self.needs, self.optional) for name in names}

    @property
    def speaks_text(self) -> bool:
        """Whether the result is a given text, spoken."""
        return ("text",) in self.needs

    @property
    def served(self) -> tuple[str, ...]:
        """Names of the tasks that are asked of this one's weights."""
        return self.covers or (self.name,)


_VOICE = "The wanted voice: 3 to 10 s, at most 30 s"
_TASKS = (
    Task(
        "tts",
        "Text to speech",
        "A text spoken by the voice of a prompt.",
        needs=(("text",), ("prompt",), ("prompt_text",)),
        optional=("language", "prompt_language", "seconds"),
        labels={
            "prompt": _VOICE,
            "prompt_text": "What the prompt says",
            "text": "What is to be said",
            "language": "Language",
        },
        settings=Settings(Sampling(num_steps=25, guidance_scale=2.5)),
        is_aligned=False,
        similar_to=("prompt", "reference"),
    ),
    Task(
        "vc",
        "Voice conversion",
        "The words of one voice in another.",
        condition="source",
        needs=(("source",), ("prompt",)),
        labels={"source": "The words", "prompt": _VOICE},
        # The paper's table 2 has a guidance of 0 and of 2.
        settings=Settings(Sampling(num_steps=20, guidance_scale=1.0)),
        is_aligned=False,
        similar_to=("prompt", "reference"),
    ),
    Task(
        "tse",
        "Target speaker extraction",
        "One speaker out of a mixture.",
        condition="source",
        needs=(("source",), ("prompt",)),
        optional=("text", "prompt_text", "language"),
        labels={"source": "The mixture", "prompt": "The wanted speaker alone: 3 to 10 s"},
        settings=Settings(Sampling(num_steps=10)),
    ),
    Task(
        "se",
        "Speech enhancement",
        "Clean speech out of noise and rooms.",
        condition="source",
        needs=(("source",),),
        labels={"source": "The recording"},
        settings=Settings(Sampling(num_steps=10)),
        # The paper gives no WER for enhancement; ours is counted all the same where there is a text.
        similar_to=("reference",),
        paper_speakers=("wavlm-sv",),
        nisqa_rate=16_000,
    ),
    Task(
        "l2s",
        "Lip to speech",
        "The speech of a silent video.",
        condition="features",
        needs=(("video", "features"), ("prompt",)),
        labels={"video": "The talking face", "features": "or its lip features (.npy, .safetensors)", "prompt": _VOICE},
        # The script of L2S was not released; these are the defaults of the method that it calls.
        settings=Settings(Sampling(num_steps=25)),
        similar_to=("prompt", "reference"),
    ),
    Task("omni", paper_speakers=("wavlm-large", "wavlm-sv"), covers=("tts", "vc", "tse", "se")),
)

TASKS: Mapping[str, Task] = {task.name: task for task in _TASKS}


def task_named(name: str) -> Task:
    """Return a task's record; of a task that has none, one that takes any condition, and a prompt if there is one."""
    own = Task(name, condition="any", needs=(("source", "video", "features"),), optional=("prompt",))
    return TASKS.get(name, own)
