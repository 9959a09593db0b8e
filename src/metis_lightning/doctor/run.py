"""Looks at what the run of a config needs: settings, weights and licences, data, memory, hours and disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning import LightningModule, Trainer

from metis_lightning.callbacks.checkpoints import run_checkpoints
from metis_lightning.data.batches.module import PreparedDataModule, SpeechDataModule
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import check_manifest
from metis_lightning.data.recipes.recipe import Recipe, item_generator
from metis_lightning.doctor.main import DoctorOptions, Finding
from metis_lightning.doctor.memory import StepCosts, largest_batch, steps_of
from metis_lightning.errors import UserError
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.trainer.main import build_from_config
from metis_lightning.types import WAVE_RATE
from metis_lightning.weights.bundle import bundle_folder, read_index, read_part

# Quieter than this, a target is no speech.
_SILENT = 1e-4
_GIGA = 1e9


def run_findings(options: DoctorOptions, config: Sequence[str]) -> Iterator[Finding]:
    """Yield what was found of a config's run; what cannot be looked at without what is broken is left out."""
    try:
        cli = build_from_config(config)
    except UserError as error:
        yield Finding("config", "fault", str(error), "nothing else was looked at")
        return
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    yield Finding("config", "ok", f"{type(model).__name__} on {type(data).__name__}, {trainer.max_steps:,} steps")
    yield from _weights(model)
    if not isinstance(data, SpeechDataModule) or not isinstance(model, TrainableModule):
        yield Finding("data", "note", "no corpus of this package: not looked at")
        return
    broken = False
    for finding in _data(data, model, trainer, options.files):
        broken |= finding.status == "fault"
        yield finding
    if not options.no_steps:
        if broken:
            yield Finding("memory", "note", "no step was taken, as the data has faults")
        else:
            yield from _steps(options, config, data, trainer)


def _weights(model: LightningModule) -> Iterator[Finding]:
    """Check every part of the bundle that a module builds on, and say whose weights it holds."""
    if not isinstance(name := getattr(model, "base", None), str):
        return
    folder = bundle_folder(name)
    licences = dict[str, list[str]]()
    for part, entry in read_index(folder)["parts"].items():
        licences.setdefault(str(entry.get("licence", "")), []).append(part)
        try:
            if "sha256" in entry:
                read_part(folder, part)
        except UserError as error:
            yield Finding("weights", "fault", str(error), "copy or import the bundle anew")
    yield Finding("weights", "ok", f"{name}: {', '.join(part for parts in licences.values() for part in parts)}")
    for licence, parts in licences.items():
        if "NC" in licence.replace("-", " ").split():
            cure = "do not use what is trained on them commercially"
            yield Finding("licences", "note", f"{', '.join(parts)}: {licence}", cure)


def _data(data: SpeechDataModule, model: TrainableModule, trainer: Trainer, files: int) -> Iterator[Finding]:
    try:
        if isinstance(data, PreparedDataModule) and data.manifest is not None:
            check_manifest(Path(data.manifest))
        corpora = data.corpora()
        data.prepare_data()
        model.read_stored_tokens(data, trainer.strategy.root_device)
    except UserError as error:
        yield Finding("data", "fault", str(error), "`prepare --help` says how a corpus is listed")
        return
    for (split, corpus), recipe in zip(corpora.items(), (data.recipe, data.val_recipe), strict=True):
        table = corpus.utterances
        hours = float(table.seconds.sum()) / 3600
        counts = f"{split}: {len(table):,} utterances, {len(corpus.by_speaker):,} speakers, {hours:,.2f} h"
        if not len(table):
            cure = "loosen data.selection, data.max_seconds, or list utterances of this split"
            yield Finding("data", "fault", f"{split}: no utterance", cure)
            continue
        yield Finding("data", "ok", counts)
        yield from _items(split, corpus, recipe, data.seed, files)
        # Of a task that speaks some texts, such as Omni, others may have none.
        if getattr(model, "text", None) is not None and not any(
            corpus.utterances[index].text for index in _spread(len(corpus), files)
        ):
            yield Finding("data", "fault", f"{split}: no texts, and the module reads them", "list them with texts")
    voices = [set(corpus.by_speaker) for corpus in corpora.values()]
    if shared := voices[0] & voices[1]:
        cure = "validate on other speakers: their scores say more"
        yield Finding("data", "note", f"{len(shared):,} speakers are in both splits", cure)


def _items(split: str, corpus: SpeechCorpus, recipe: Recipe, seed: int, files: int) -> Iterator[Finding]:
    """Make training items of utterances spread over a split, and look at what came out."""
    chosen = _spread(len(corpus), files)
    faults, rates = dict[str, str](), set[int]()
    for index in chosen:
        utterance = corpus.utterances[index]
        rates.add(utterance.sample_rate)
        try:
            item = recipe(corpus, index, item_generator(seed, 0, corpus, index))
            if item.wave.numel() and float(item.wave.abs().max()) < _SILENT:
                faults[utterance.id] = f"utterance {utterance.id!r} is silent"
            elif utterance.mixture is not None and not 0.5 < _held_share(corpus, index) < 1.5:
                faults[utterance.id] = f"the mixture of {utterance.id!r} is not a sum with its target in it"
        except (UserError, ValueError) as error:
            faults[utterance.id] = str(error)
    for text in list(faults.values())[:3]:
        yield Finding("data", "fault", f"{split}: {text}", "repair or leave it out, then `prepare` anew")
    if len(faults) > 3:
        yield Finding("data", "fault", f"{split}: {len(faults)} of {len(chosen)} utterances in all")
    if not faults:
        yield Finding("data", "ok", f"{split}: {len(chosen)} utterances decoded and made into items")
    if low := sorted(rate for rate in rates if rate < WAVE_RATE):
        shown = ", ".join(f"{rate:,} Hz" for rate in low)
        yield Finding(
            "data", "note", f"{split}: recorded at {shown}", f"nothing is above half of it in {WAVE_RATE:,} Hz"
        )


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` places among `count`, from the first to the last."""
    places: list[int] = np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
    return places


def _held_share(corpus: SpeechCorpus, index: int) -> float:
    """Return how much of an utterance is in its mixture: 1 where that is a sum of it and of what is unlike it."""
    mixture, wave = corpus.mixture(index), corpus.wave(index)
    return float(mixture @ wave / (wave @ wave).clamp(min=1e-9))


def _steps(
    options: DoctorOptions, config: Sequence[str], data: SpeechDataModule, trainer: Trainer
) -> Iterator[Finding]:
    """Take steps in processes of their own: memory, hours, disk."""
    limit = None if options.memory_limit is None else options.memory_limit * _GIGA
    tried: dict[float, StepCosts | None] = {}

    def fits(seconds: float) -> bool:
        tried[seconds] = steps_of(config, seconds, limit)
        return tried[seconds] is not None

    own = data.batch_seconds
    try:
        if options.largest_batch or not fits(own):
            total = float(data.corpora()[data.train_split].utterances.seconds.sum())
            largest, above = largest_batch(lambda size: tried.get(size) is not None or fits(size), own, total)
            more = "" if above is None else f", {above:.4g} do not"
            text = f"of data.batch_seconds {largest:.4g} fit{more}"
            is_small = largest < own
            cure = f"--data.batch_seconds {largest:.4g} fits" if largest else "give --data.max_seconds a smaller value"
            yield Finding("memory", "fault" if is_small else "ok", text, cure if is_small else "")
    except UserError as error:
        yield Finding("memory", "fault", str(error), "the same happens in `fit`")
        return
    if (costs := tried.get(own)) is None:
        return
    yield Finding(
        "memory", "ok", f"a step on the largest batch, {costs.batch_seconds:.0f} s, {costs.memory / _GIGA:.2f} GB"
    )
    steps = trainer.max_steps * trainer.accumulate_grad_batches
    if steps > 0:
        hours = steps * costs.step_seconds / 3600
        text = f"{trainer.max_steps:,} steps of {costs.step_seconds:.2f} s: {hours:.2g} h, validation not counted"
        yield Finding("hours", "ok", text)
    yield _disk(trainer, costs)


def _disk(trainer: Trainer, costs: StepCosts) -> Finding:
    """Compare what the run's checkpoints take, one more while it is written, with what the disk has."""
    needs: Mapping[Path, int] = {
        saver.folder(trainer): costs.checkpoint_bytes * (max(saver.save_top_k, 1) + 2)
        for saver in run_checkpoints(trainer)
    }
    texts = []
    for folder, size in needs.items():
        there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(there).free
        texts.append(f"{folder}: checkpoints of {costs.checkpoint_bytes / 1e6:.0f} MB, {free / _GIGA:.1f} GB free")
        if free < size:
            return Finding("disk", "fault", texts[-1], f"make room for {size / _GIGA:.2g} GB, or name another folder")
    return Finding("disk", "ok", "; ".join(texts) or "no checkpoints")
