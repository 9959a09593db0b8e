"""`app`: the five tasks in the browser, a tab each: a microphone or files in, a player out (extra `demo`)."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from metis_lightning.errors import UserError
from metis_lightning.generate.inputs import LONGEST, check_texts
from metis_lightning.generate.jobs import Job, check_job
from metis_lightning.generate.making import Maker
from metis_lightning.generate.weights import lip_reader, load_metis
from metis_lightning.pipeline import SETTINGS, Options
from metis_lightning.tokens.phonemes import LANGUAGES
from metis_lightning.weights.answering import answered_tasks


@dataclass(frozen=True)
class Tab:
    """A task as it is shown: its inputs by name, with what they are called."""

    title: str
    about: str
    inputs: Mapping[str, str]


_VOICE = f"The wanted voice: 3 to 10 s, at most {LONGEST:g} s"
TABS: Mapping[str, Tab] = {
    "tts": Tab(
        "Text to speech",
        "A text spoken by the voice of a prompt.",
        {"prompt": _VOICE, "prompt_text": "What the prompt says", "text": "What is to be said", "language": "Language"},
    ),
    "vc": Tab("Voice conversion", "The words of one voice in another.", {"source": "The words", "prompt": _VOICE}),
    "tse": Tab(
        "Target speaker extraction",
        "One speaker out of a mixture.",
        {"source": "The mixture", "prompt": "The wanted speaker alone: 3 to 10 s"},
    ),
    "se": Tab("Speech enhancement", "Clean speech out of noise and rooms.", {"source": "The recording"}),
    "l2s": Tab(
        "Lip to speech",
        "The speech of a silent video.",
        {"video": "The talking face", "features": "or its lip features (.npy, .safetensors)", "prompt": _VOICE},
    ),
}


class Studio:
    """The pipelines behind the tabs, each loaded when it is first used.

    Args:
        options: of the command line, see `verbs.generate.add_model_options`.

    Raises:
        UserError: if there are no such weights.
    """

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.models = {task: name for name in reversed(options.model) for task in answered_tasks(name)}
        """What answers a task; of several, the first that was named."""
        self._makers: dict[str, Maker] = {}

    def speak(self, task: str, inputs: Mapping[str, str], seed: int, options: Options) -> tuple[int, np.ndarray]:
        """Return the sample rate and 16-bit samples (S,) of a result.

        Raises:
            UserError: if an input is missing or not usable, or the weights are not.
        """
        with tempfile.TemporaryDirectory() as folder:
            job = Job(task, "result", Path(folder) / "result.wav", inputs, seed)
            check_job(job)
            loaded = self._maker(task)
            check_texts(job, loaded.metis.text)
            Maker(loaded.metis, options, lips=loaded.lips).make_one(job)
            samples, rate = soundfile.read(job.out, dtype="int16")
        return rate, samples

    def _maker(self, task: str) -> Maker:
        if task not in self._makers:
            metis = load_metis(self.models[task], task, self.options)
            made = Maker(metis, lips=lip_reader(self.options))
            # Weights that answer several tasks are loaded once.
            self._makers |= {name: made for name in metis.stage1 if self.models.get(name) == self.models[task]}
        return self._makers[task]


def run_app(options: Namespace) -> None:
    """Run the verb `app` until it is stopped.

    Raises:
        UserError: if the extra `demo` is not installed, there are no such weights, or the port is taken.
    """
    app = build_app(Studio(options))
    try:
        app.launch(server_name=options.host, server_port=options.port, share=False)
    except OSError as error:
        raise UserError(f"--port {options.port}: {error}; give another") from error


def build_app(studio: Studio) -> Any:  # noqa: ANN401  a class of an optional package
    """Return the page, a `gradio.Blocks`; each tab whose weights are there is an endpoint named after its task.

    Raises:
        UserError: if the extra `demo` is not installed.
    """
    gr = require_gradio()
    with gr.Blocks(title="Metis", analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        gr.Markdown("# Metis\nGenerated speech. Use a voice only with its owner's consent.")
        for task, tab in TABS.items():
            with gr.Tab(tab.title, id=task):
                gr.Markdown(tab.about)
                if task in studio.models:
                    _add_controls(gr, task, tab, studio)
                else:
                    names = ", ".join(studio.options.model)
                    gr.Markdown(f"**The weights {names} do not have this task.** Name others with `app --model`.")
    return app


def require_gradio() -> Any:  # noqa: ANN401  a module
    """Import Gradio.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"the app needs the extra 'demo': pip install 'metis-lightning[demo]' ({error})") from error
    return gradio


def _add_controls(gr: Any, task: str, tab: Tab, studio: Studio) -> None:  # noqa: ANN401
    released = SETTINGS[task].stage1
    with gr.Row():
        with gr.Column():
            inputs = [_component(gr, name, label) for name, label in tab.inputs.items()]
            with gr.Accordion("Sampler", open=False):
                settings = [
                    gr.Slider(0, 2**31 - 1, value=0, step=1, label="Seed"),
                    gr.Slider(1, 100, value=released.num_steps, step=1, label="Steps"),
                    gr.Slider(0, 5, value=released.guidance_scale, step=0.1, label="Guidance"),
                ]
            button = gr.Button("Generate", variant="primary", elem_id=f"{task}-generate")
        # Without the button that would send the sound to a public page.
        result = gr.Audio(label="Result", interactive=False, buttons=["download"], elem_id=f"{task}-result")
    button.click(
        _handler(gr, task, list(tab.inputs), studio),
        [*inputs, *settings],
        result,
        api_name=task,
        # One at a time, whatever the tab: they share the processor and its memory.
        concurrency_limit=1,
        concurrency_id="models",
    )


def _component(gr: Any, name: str, label: str) -> Any:  # noqa: ANN401
    """Return what takes an input."""
    if name == "language":
        return gr.Dropdown(list(LANGUAGES), value=LANGUAGES[0], label=label)
    if name in ("text", "prompt_text"):
        return gr.Textbox(label=label, lines=2)
    if name == "video":
        return gr.Video(label=label, sources=["upload", "webcam"])
    if name == "features":
        return gr.File(label=label, file_types=[".npy", ".safetensors"])
    return gr.Audio(label=label, sources=["upload", "microphone"], type="filepath", buttons=["download"])


def _handler(gr: Any, task: str, names: list[str], studio: Studio) -> Callable[..., tuple[int, np.ndarray]]:  # noqa: ANN401
    """Return the function of a tab's button: it takes the inputs in order, seed, steps and guidance."""

    def generate(*values: Any) -> tuple[int, np.ndarray]:
        inputs = {name: str(value) for name, value in zip(names, values, strict=False) if value not in (None, "")}
        seed, num_steps, guidance_scale = values[len(names) :]
        options = Options(num_steps=int(num_steps), guidance_scale=float(guidance_scale))
        try:
            return studio.speak(task, inputs, int(seed), options)
        except UserError as error:
            # What the browser shows, without the traceback that a bug of ours would have.
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from error

    return generate
