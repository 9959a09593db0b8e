"""`app`: the five tasks in the browser, a tab each: a microphone or files in, a player out (extra `demo`)."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from metis_lightning.errors import UserError
from metis_lightning.generate.inputs import LipReader, check_texts
from metis_lightning.generate.jobs import Job, check_job
from metis_lightning.generate.options import AppOptions
from metis_lightning.generate.weights import chosen_device, load_metis
from metis_lightning.generate.writer import SpeechWriter
from metis_lightning.pipeline import Metis, Options
from metis_lightning.task_table import TASKS, Task
from metis_lightning.tokens.phonemes import LANGUAGES
from metis_lightning.weights.build import served_tasks

# The largest file that is taken, and how much all that was uploaded in the last day may be together.
FILE_BYTES, ALL_BYTES = 100_000_000, 2_000_000_000
# Folders of absolute paths in a message.
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^/\s:;,()]+/)+")
# The tasks that are shown, a tab each.
TABS: Mapping[str, Task] = {name: task for name, task in TASKS.items() if task.labels}


class Studio:
    """The pipelines behind the tabs, each loaded at its first use. A `UserError` if the weights serve none of them."""

    def __init__(self, options: AppOptions) -> None:
        self.options = options
        # Weights by task; of several that serve it, those that were named first.
        self.models = {task: name for name in reversed(options.model) for task in served_tasks(name)}
        if not self.models.keys() & TABS.keys():
            raise UserError(f"--model {' '.join(options.model)}: no weights for any of the tasks {', '.join(TABS)}")
        self._loaded: dict[str, Metis] = {}
        bundle = options.bundle_of(self.models.get("l2s", options.model[0]))
        self._lips = LipReader(options.visual_encoder, chosen_device(options), bundle)

    def speak(self, task: str, inputs: Mapping[str, str], seed: int, options: Options) -> tuple[int, np.ndarray]:
        """Return the sample rate and 16-bit samples (S,) of a result. A `UserError` if an input is not usable."""
        labels = TABS[task].labels
        if missing := [names for names in TABS[task].needs if not inputs.keys() & set(names)]:
            raise UserError(f"{' or '.join(f'“{labels[name]}”' for name in missing[0])} is missing")
        if "video" in inputs:
            try:
                _ = self._lips.encoder
            except UserError as error:
                message = f"{labels['video']}: videos cannot be read here; give their lip features"
                raise UserError(message) from error
        with tempfile.TemporaryDirectory() as folder:
            job = Job(task, "result", Path(folder) / "result.wav", inputs, seed, labels=labels)
            try:
                check_job(job)
                metis = self._metis(task)
                check_texts(job, metis.text)
                for written in SpeechWriter(metis, options, lips=self._lips).write([job]):
                    if written.error is not None:
                        raise written.error
            except UserError as error:
                # Strangers read it: files by their names alone, whatever the folders of this machine.
                message = str(error)
                for path in (*inputs.values(), *self.options.model, self.options.base):
                    if "/" in path:
                        message = message.replace(path, Path(path).name)
                raise UserError(_FOLDERS.sub("", message)) from error
            samples, rate = soundfile.read(job.out, dtype="int16")
        return rate, samples

    def _metis(self, task: str) -> Metis:
        if task not in self._loaded:
            metis = load_metis(self.models[task], task, self.options)
            # Weights that serve several tasks are loaded once.
            self._loaded |= {name: metis for name in metis.stage1 if self.models.get(name) == self.models[task]}
        return self._loaded[task]


@dataclass(eq=False)
class UploadLimit:
    """ASGI middleware that refuses an upload if all uploads in `folder` would exceed a `limit` in bytes."""

    app: Callable[..., Awaitable[None]]
    folder: str
    limit: int
    _coming: int = 0

    async def __call__(self, scope: Mapping[str, Any], receive: object, send: Callable[..., Awaitable[None]]) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        size = int(dict(scope["headers"]).get(b"content-length", self.limit + 1))
        there = sum(path.stat().st_size for path in Path(self.folder).rglob("*") if path.is_file())
        if there + self._coming + size > self.limit:
            text = b"There is no room for this file now; try again later, or with a shorter one."
            await send({"type": "http.response.start", "status": 413, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": text})
            return
        self._coming += size
        try:
            await self.app(scope, receive, send)
        finally:
            self._coming -= size


def run_app(options: AppOptions) -> None:
    """Run the command `app` until it is stopped. A `UserError` if there are no such weights, or the port is taken."""
    studio = Studio(options)
    with tempfile.TemporaryDirectory(prefix="metis-app-") as folder:
        try:
            launch(studio, folder, server_name=options.host, server_port=options.port)
        except OSError as error:
            raise UserError(f"--port {options.port}: {error}; give another") from error


def launch(studio: Studio, folder: str, **server: Any) -> Any:  # noqa: ANN401  a class of an optional package
    """Serve the page by Gradio's options `server`, and return it; uploads and results in `folder` go after a day."""
    # Where Gradio keeps files; else it is one folder for all apps of the machine.
    os.environ["GRADIO_TEMP_DIR"] = folder
    app = build_app(studio)
    limit = (UploadLimit, (), {"folder": folder, "limit": ALL_BYTES})
    app.launch(share=False, max_file_size=FILE_BYTES, show_error=True, app_kwargs={"middleware": [limit]}, **server)
    return app


def build_app(studio: Studio) -> Any:  # noqa: ANN401  a class of an optional package
    """Return the page (`gradio.Blocks`), each tab an endpoint named after its task; a `UserError` without Gradio."""
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError(f"the app needs the extra 'demo': pip install 'metis-lightning[demo]' ({error})") from error
    with gr.Blocks(title="Metis", analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        gr.Markdown("# Metis\nGenerated speech. Use a voice only with its owner's consent.")
        if missing := [tab.title for task, tab in TABS.items() if task not in studio.models]:
            gr.Markdown(f"The weights that are loaded here do not have: {', '.join(missing)}.")
        with gr.Tabs(selected=next(task for task in TABS if task in studio.models)):
            for task, tab in TABS.items():
                with gr.Tab(tab.title, id=task, interactive=task in studio.models):
                    gr.Markdown(tab.about)
                    if task in studio.models:
                        _add_controls(gr, task, tab, studio)
    return app


def _add_controls(gr: Any, task: str, tab: Task, studio: Studio) -> None:  # noqa: ANN401
    released = tab.settings.stage1
    with gr.Row():
        with gr.Column():
            inputs = [_component(gr, name, label) for name, label in tab.labels.items()]
            with gr.Accordion("Sampler", open=False):
                settings = [
                    _slider(gr, "Seed", 0, 2**31 - 1, 0, 1),
                    _slider(gr, "Steps", 1, 100, released.num_steps, 1),
                    _slider(gr, "Guidance", 0, 5, released.guidance_scale, 0.1),
                ]
            button = gr.Button("Generate", variant="primary", elem_id=f"{task}-generate")
        # Without the button that would send the sound to a public page.
        result = gr.Audio(label="Result", interactive=False, buttons=["download"], elem_id=f"{task}-result")
    # One at a time, whatever the tab: they share the processor and its memory.
    handler = _handler(gr, task, list(tab.labels), studio)
    button.click(handler, [*inputs, *settings], result, api_name=task, concurrency_limit=1, concurrency_id="models")


def _slider(gr: Any, label: str, lowest: int, highest: int, value: float, step: float) -> Any:  # noqa: ANN401
    """Return a slider that says so if what comes is no number within its ends: programs send what they like."""
    slider = gr.Slider(lowest, highest, value=value, step=step, label=label)
    convert = slider.preprocess

    def preprocess(payload: object) -> float:
        if not isinstance(payload, int | float) or not math.isfinite(payload) or not lowest <= payload <= highest:
            raise gr.Error(f"{label}: give a number from {lowest} to {highest}", print_exception=False)
        return float(convert(payload))

    slider.preprocess = preprocess
    return slider


def _component(gr: Any, name: str, label: str) -> Any:  # noqa: ANN401
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
    """Return the function of a tab's button, which takes the inputs in order, seed, steps and guidance."""

    def generate(*values: Any) -> tuple[int, np.ndarray]:
        inputs = {name: str(value) for name, value in zip(names, values, strict=False) if value not in (None, "")}
        seed, num_steps, guidance_scale = values[len(names) :]
        options = Options(num_steps=int(num_steps), guidance_scale=float(guidance_scale))
        try:
            return studio.speak(task, inputs, int(seed), options)
        except UserError as error:
            # Shown in the browser, without the traceback that a bug of ours would have.
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from error
        except Exception as error:
            # A bug of ours: the traceback is for the log.
            raise gr.Error("Something went wrong on the server; its log says what.") from error

    return generate
