"""Metis, the public Python API: two-stage inference over a bundle.

    >>> alone = Metis.from_pretrained("nano").extract(mixture, enrollment, seed=0).wave   # doctest: +SKIP
    >>> metis = Metis.from_pretrained("runs/se_lora/checkpoints/last.ckpt", task="se")    # doctest: +SKIP
    >>> batch = [metis.request("se", source=wave) for wave in (noisy, another)]    # doctest: +SKIP
    >>> many = metis.generate(batch, seeds=[0, 1], num_steps=8)        # doctest: +SKIP

Shape letters: S samples at 24 kHz, F frames of lips at 25 Hz, C feature width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Unpack

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.models.inference import prepare_for_inference
from metis_lightning.models.runner import Graphs
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.options import Precision
from metis_lightning.sampling.mask_predict import Noise, gumbel
from metis_lightning.sampling.request import SHORTEST, Request, Speech, Timing, checked_wave
from metis_lightning.sampling.settings import Options, Sampling, Settings
from metis_lightning.sampling.two_stages import Stage2, TwoStages
from metis_lightning.sampling.voice import Prompt, Voice
from metis_lightning.task_methods import TaskMethods
from metis_lightning.task_table import TASKS, task_named
from metis_lightning.tokens.phonemes import TextFrontEnd, text_front_end
from metis_lightning.tokens.tokenizer import SpeechTokenizer, fingerprints
from metis_lightning.types import HOP, WAVE_RATE
from metis_lightning.weights.build import load_stage2, load_task_model, load_tokenizer
from metis_lightning.weights.bundle import bundle_folder

__all__ = [
    "HOP",
    "SHORTEST",
    "TASKS",
    "Metis",
    "Options",
    "Request",
    "Sampling",
    "Settings",
    "Speech",
    "Timing",
    "Voice",
]


class Metis(TaskMethods):
    """The two stages and their codecs.

    `stage1` holds models by task, which were trained with the front end `text`; None if they take no text. `stage2` is
    the model of the first acoustic layer and that of the others; None if only the codecs, of `tokenizer`, are needed.
    At most `batch_size` requests are worked on together. With `compile` the backbones are compiled, once for each shape
    of a batch; with `graphs` passes on a GPU are captured as CUDA graphs, which pays from a few requests of a shape on.
    """

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        stage1: Mapping[str, Stage1],
        stage2: tuple[SemanticToAcoustic, SemanticToAcoustic] | None,
        text: TextFrontEnd | None = None,
        batch_size: int = 16,
        compile: bool = False,
        graphs: bool = True,
    ) -> None:
        self.tokenizer, self.stage1, self.stage2, self.text = tokenizer, stage1, stage2, text
        self.batch_size, self.compile = batch_size, compile
        if self.device.type == "mps":
            raise UserError("Metis runs on cpu and cuda; on mps no token was ever compared: load it with device='cpu'")
        # One for all models: they run one after another, so one pool of memory does.
        self.graphs = Graphs(self.device) if graphs and self.device.type == "cuda" else None
        self._ready: dict[Stage1, TwoStages] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str = "nano",
        task: str = "tse",
        base: str = "nano",
        device: str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
    ) -> Metis:
        """Load a bundle, or a checkpoint on top of a base bundle. A `UserError` if they are not there or do not fit.

        The name is `nano`, a bundle's folder or hub name (`owner/name`, `owner/name@commit`), or a `.ckpt` file, which
        belongs to the bundle `base`. Weights that serve several tasks, as Omni's do, are found by each of them. Both
        stages have the `precision`, see `prepare_for_inference`; the front end and the codecs stay in float32.
        """
        loaded = load_task_model(name, task, base)
        first, full = load_stage2(loaded.folder)
        for stage in (loaded.model, first, full):
            prepare_for_inference(stage.to(device), precision)
        tokenizer, models = load_tokenizer(loaded.folder).to(device), dict.fromkeys(loaded.tasks, loaded.model)
        text = None if loaded.text is None else text_front_end(loaded.text, is_needed=False)
        return cls(tokenizer, models, (first, full), text, compile=compile)

    @classmethod
    def codecs_only(cls, name: str = "nano", device: str = "cpu") -> Metis:
        """Load the front end and the codecs of a bundle alone, for `resynthesize`."""
        return cls(load_tokenizer(bundle_folder(name)).to(device), {}, None)

    @classmethod
    def without_stage1(cls, name: str = "nano", device: str = "cpu", precision: Precision = "float32") -> Metis:
        """Load what all tasks of a bundle share, for `respeak` and `resynthesize`; see `from_pretrained`."""
        first, full = load_stage2(folder := bundle_folder(name))
        for model in (first, full):
            prepare_for_inference(model.to(device), precision)
        return cls(load_tokenizer(folder).to(device), {}, (first, full))

    def voice(self, prompt: Tensor, text: str = "", language: str = "en") -> Voice:
        """Encode a prompt (S',) at 24 kHz once, with what it says, to save it and to use it instead of the prompt."""
        encoded = self._second_stage.voices([checked_wave("prompt", prompt)])[0].to(torch.device("cpu"))
        return replace(encoded, text=text, language=language, codecs=self.codecs)

    @cached_property
    def codecs(self) -> str:
        """Hash of all that tokens of a prompt follow from."""
        return "/".join(fingerprints(self.tokenizer, ("ssl", "acoustic"), torch.device("cpu")).values())

    def generate(
        self,
        requests: Sequence[Request],
        seeds: int | Sequence[int] = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> list[Speech]:
        """Answer requests of any tasks and lengths together: each gets the tokens that it has alone.

        `seeds` of the sampler are one for all or one a request; `settings` of both stages are by default those of each
        request's task, `options` single ones instead. A `UserError` if weights, seeds or usable inputs are missing.
        """
        seeds = [seeds] * len(requests) if isinstance(seeds, int) else seeds
        if len(seeds) != len(requests):
            raise UserError(f"{len(seeds)} seeds for {len(requests)} requests; give one for all, or one a request")
        checked = list(self._checked(requests))
        alike: dict[tuple[Stage1, Settings], list[int]] = {}
        for row, request in enumerate(checked):
            chosen = (settings or task_named(request.task).settings).chosen(options)
            alike.setdefault((self.stage1[request.task], chosen), []).append(row)
        results: dict[int, Speech] = {}
        for (model, chosen), rows in alike.items():
            # Rows of like lengths go together, so that little is padded where rows are.
            rows.sort(key=lambda row: checked[row].length)
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                noises = [self._noise(seeds[row]) for row in batch]
                if model not in self._ready:
                    self._ready[model] = TwoStages(model, self._second_stage)
                speech = self._ready[model].speech([checked[row] for row in batch], chosen, noises)
                results.update(zip(batch, speech, strict=True))
        return [results[row] for row in range(len(requests))]

    def _checked(self, requests: Sequence[Request]) -> Iterator[Request]:
        for row, request in enumerate(requests):
            if (task := request.task) not in self.stage1:
                loaded = ", ".join(self.stage1) or "no task"
                raise UserError(f"this pipeline was loaded for {loaded}; load it with task={task!r}")
            try:
                if isinstance(request.prompt, Voice) and request.prompt.codecs:
                    request.prompt.checked(self.codecs)
                yield request.checked()
            except UserError as error:
                if len(requests) == 1:
                    raise
                raise UserError(f"request {row} of the batch: {error}") from error

    @cached_property
    def _second_stage(self) -> Stage2:
        if self.stage2 is None:
            raise ValueError("this pipeline was built without stage 2")
        return Stage2(self.tokenizer, *self.stage2, self.compile, self.graphs)

    def _noise(self, seed: int) -> Noise:
        # Drawn on the GPU where there is one, whose numbers are not those of a CPU.
        on_gpu = self.device.type == "cuda" and torch.cuda.is_available()
        return gumbel(torch.Generator(self.device if on_gpu else "cpu").manual_seed(seed))

    def respeak(
        self,
        wave: Tensor,
        prompt: Prompt | None = None,
        seed: int = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> Speech:
        """Return a waveform (S,) at 24 kHz spoken again by stage 2 from its SSL tokens: the best of any stage 1."""
        wave = checked_wave("waveform", wave)
        voice = checked_wave("prompt", prompt) if isinstance(prompt, Tensor) else prompt
        chosen = (settings or Settings()).chosen(options)
        return self._second_stage.respoken([wave], [voice], chosen, [self._noise(seed)])[0]

    @torch.no_grad()
    def resynthesize(self, wave: Tensor) -> Speech:
        """Return a waveform (S,) at 24 kHz after a round trip through the acoustic codec: the best of stage 2."""
        wave = checked_wave("waveform", wave)
        tokens = self.tokenizer.acoustic_tokens(wave[None].to(self.device))
        decoded, no_tokens = self.tokenizer.wave(tokens)[0], torch.empty(0, dtype=torch.long)
        return Speech(decoded[: len(wave)].cpu(), WAVE_RATE, no_tokens, tokens[0].cpu())

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return next(self.tokenizer.parameters()).device
