"""Samples of a validation: what is asked for, what reaches TensorBoard, and which weights speak."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metis_lightning.callbacks.ema import EMA
from metis_lightning.callbacks.validation_samples import (
    CodecSamples,
    FeatureSamples,
    SpeechSamples,
    ValidationSamples,
    Values,
    coloured,
    mel_image,
    one_row,
)
from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis
from metis_lightning.sampling.settings import Sampling, Settings
from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.conditioned import L2sModule, OmniModule, SeModule, TseModule, TtsModule, VcModule
from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.tasks.semantic_codec import SemanticCodecModule
from metis_lightning.types import HOP, SpeechBatch
from metis_lightning.weights.bundle import read_index, write_index
from one_batch import OPTIMIZER, SCHEDULE, OneBatch, make_tse, speech_batch, trainer
from pretended_gpu import PretendedGPU, send
from tiny import ACOUSTIC, SEMANTIC

FAST = Settings(Sampling(num_steps=2), stage2_steps=(2, 1, 1))
TASKS = {
    "tts": partial(TtsModule, text="utf8"),
    "vc": VcModule,
    "tse": TseModule,
    "se": SeModule,
    "l2s": partial(L2sModule, lip_dim=6),
    "omni": partial(OmniModule, text="utf8"),
}


def batch_for(task: str) -> SpeechBatch:
    """The rows of a validation as the task's recipe gives them: a second, and 0.8 s with padding."""
    batch = speech_batch()
    if task in ("vc", "tse"):
        return batch
    if task == "se":
        return replace(batch, prompt_lengths=torch.tensor([0, 0]))
    wordless = replace(batch, source=None, prompt_lengths=None)
    if task == "l2s":
        return replace(wordless, features=torch.randn(2, 25, 6), feature_lengths=torch.tensor([25, 20]))
    if task == "tts":
        return replace(wordless, scripts=("yes", "no"), languages=("en", "en"))
    # One row to speak, one to hear.
    return replace(
        batch,
        scripts=("yes", ""),
        languages=("en", ""),
        prompt_lengths=torch.tensor([-1, 9_600]),
        has_source=torch.tensor([False, True]),
    )


def make(task: str, bundle: Path) -> FinetuneModule:
    torch.manual_seed(0)
    return TASKS[task](base=str(bundle), lora_rank=2, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE).eval()


@pytest.mark.parametrize("task", TASKS)
def test_a_row_of_every_task_is_asked_for_and_said(task: str, tiny_bundle: Path) -> None:
    module, batch = make(task, tiny_bundle), batch_for(task)
    samples = SpeechSamples(str(tiny_bundle), settings=FAST)
    samples.setup(lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), module, "fit")
    item = one_row(batch, 1)
    assert item.wave.shape == (1, 19_200)
    request = module.request(item)
    given, made = samples.values(module, item)
    # Frames of the prompt: given, none for SE, or two fifths of 40 where the rule draws it.
    prompt = {"se": 0, "tts": 16, "l2s": 16}.get(task, 20) * HOP
    assert (0 if request.prompt is None else len(request.prompt)) == prompt
    assert (request.source is not None) == ("source" in given) == (task not in ("tts", "l2s"))
    assert bool(request.phones) == (task == "tts")
    assert torch.equal(given["target"], batch.wave[1, prompt:19_200])
    if request.source is not None:
        assert torch.equal(request.source, batch.source[1, prompt:19_200])
    generated = made["generated"]
    # Lips are cut to the frames of the tokens, and those end where the last whole window does.
    assert len(generated) == (19_200 - prompt if task != "l2s" else request.length)
    assert generated.isfinite().all()
    if task == "omni":
        spoken = module.request(one_row(batch, 0))
        assert spoken.phones and spoken.source is None
        assert len(spoken.prompt) + spoken.samples == 24_000


def test_samples_capture_no_graphs(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    class Noted(Metis):
        def __init__(self, *parts: object, **options: object) -> None:
            given.append(options.get("graphs"))
            super().__init__(*parts, **options)

    monkeypatch.setattr("metis_lightning.callbacks.validation_samples.Metis", Noted)
    module, samples = make("se", tiny_bundle), SpeechSamples(str(tiny_bundle), settings=FAST)
    samples.setup(trainer(tmp_path, 1), module, "fit")
    samples.values(module, one_row(batch_for("se"), 0))
    assert given == [False]
    with PretendedGPU():
        tokenizer = send(module.tokenizer)
        assert Metis(tokenizer, {}, None).graphs is not None
        assert Metis(tokenizer, {}, None, graphs=False).graphs is None


def test_a_prompt_that_is_too_short_belongs_to_the_target(tiny_bundle: Path) -> None:
    item = one_row(replace(speech_batch(), prompt_lengths=torch.tensor([2_000, 0])), 0)
    request = make("tse", tiny_bundle).request(item)
    assert request.prompt is None
    assert len(request.source) == 24_000


class Witness(SpeechSamples):
    """Notes the weights that speak."""

    def __init__(self, bundle: str) -> None:
        super().__init__(bundle, count=1, settings=FAST)
        self.weights: list[dict[str, torch.Tensor]] = []

    def values(self, module: TrainableModule, item: SpeechBatch) -> tuple[Values, Values]:
        self.weights.append({n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad})
        return super().values(module, item)


def logged(module: TrainableModule, folder: Path, *callbacks: lightning.Callback) -> EventAccumulator:
    """Train two steps with a validation after each; return what TensorBoard reads."""
    run = trainer(folder, 2, val_check_interval=1)
    run.loggers = [TensorBoardLogger(folder, "run", "")]
    run.callbacks[:0] = callbacks
    run.fit(module, datamodule=OneBatch())
    events = EventAccumulator(str(folder / "run"), {"audio": 0, "images": 0})
    events.Reload()
    return events


def test_the_average_speaks_wherever_it_stands_in_the_list(tiny_bundle: Path, tmp_path: Path) -> None:
    module, ema, witness = make_tse(tiny_bundle), EMA(decay=0.5), Witness(str(tiny_bundle))
    events = logged(module, tmp_path, ema, witness)
    names = {"a/source": 1, "a/target": 1, "a/generated": 2}
    assert {tag: len(events.Audio(tag)) for tag in events.Tags()["audio"]} == names
    assert {tag: len(events.Images(tag)) for tag in events.Tags()["images"]} == {
        f"{k}_mel": n for k, n in names.items()
    }
    assert events.Audio("a/generated")[1].sample_rate == 24_000
    assert [event.step for event in events.Audio("a/generated")] == [1, 2]
    checkpoint = {}
    ema.on_save_checkpoint(None, module, checkpoint)
    average = checkpoint["ema"]["weights"]
    assert all(torch.equal(value, average[name]) for name, value in witness.weights[-1].items())
    raw = dict(module.named_parameters())
    assert any(not torch.equal(value, raw[name]) for name, value in average.items())


@pytest.mark.parametrize(
    ("make", "callback", "tags"),
    [
        (
            lambda: AcousticCodecModule(ACOUSTIC, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE),
            CodecSamples,
            {"audio": {"target", "reconstructed"}, "images": {"target_mel", "reconstructed_mel"}},
        ),
        (
            lambda: SemanticCodecModule(SEMANTIC, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE),
            FeatureSamples,
            {"audio": set(), "images": {"features", "reconstructed"}},
        ),
    ],
    ids=["acoustic", "semantic"],
)
def test_codecs_show_what_they_leave(
    make, callback: type[ValidationSamples], tags: dict[str, set[str]], tmp_path: Path
) -> None:
    events = logged(make(), tmp_path, callback(count=2, every_n_validations=2))
    for kind, names in tags.items():
        assert set(events.Tags()[kind]) == {f"{item}/{name}" for item in "ab" for name in names}
    assert [event.step for event in events.Images("b/" + min(tags["images"]))] == [1]


def test_a_bundle_without_stage_2_gives_a_warning_and_no_samples(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    index = read_index(bundle)
    del index["parts"]["s2a_full"]
    write_index(bundle, index)
    with pytest.warns(UserWarning, match="no samples, for lack of s2a_full in bundle"):
        events = logged(make_tse(tiny_bundle), tmp_path, SpeechSamples(str(bundle)))
    assert events.Tags()["audio"] == []


def test_stored_tokens_leave_nothing_to_be_heard(tiny_bundle: Path, tmp_path: Path) -> None:
    module, samples = make("l2s", tiny_bundle), SpeechSamples(str(tiny_bundle), settings=FAST)
    samples.on_validation_batch_end(None, module, None, replace(batch_for("l2s"), wave=torch.zeros(2, 0)))
    with pytest.warns(UserWarning, match="no samples, since stored tokens took the place of the audio"):
        samples.on_validation_epoch_end(trainer(tmp_path, 1), module)
    # With audio there is one a row to be heard.
    heard = SpeechSamples(str(tiny_bundle), settings=FAST)
    heard.on_validation_batch_end(None, module, None, batch_for("l2s"))
    assert (len(samples._items), len(heard._items)) == (0, 2)


def test_a_callback_for_another_module_is_refused(tmp_path: Path) -> None:
    codec = AcousticCodecModule(ACOUSTIC, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
    with pytest.raises(UserError, match="AcousticCodecModule answers no requests"):
        logged(codec, tmp_path, SpeechSamples())
    with pytest.raises(UserError, match="no SemanticCodec `codec`"):
        FeatureSamples().values(codec, one_row(speech_batch(), 0))


def test_images_have_low_values_dark_and_low_frequencies_below() -> None:
    image = coloured(torch.tensor([[0.0, 1.0]]))
    assert image.shape == (3, 1, 2)
    assert image[:, 0, 0].sum() < 0.1 < 2 < image[:, 0, 1].sum()
    tone = torch.sin(2 * torch.pi * 200 * torch.arange(24_000) / 24_000)
    bright = mel_image(tone).sum(dim=(0, 2))
    assert len(bright) == 160
    assert int(bright.argmax()) > 140
