"""Tokens stored by the Trainer, and training that reads them instead of audio."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from lightning import LightningModule, Trainer

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.recipes.recipe import PlainRecipe, Recipe, SpeechItem, TtsRecipe
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.data.token_store.store import TokenStore
from metis_lightning.errors import UserError
from metis_lightning.models.semantic_to_acoustic import SemanticToAcousticConfig
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.conditioned import TseModule, TtsModule
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tasks.semantic_codec import SemanticCodecModule
from metis_lightning.tasks.semantic_to_acoustic import SemanticToAcousticModule
from metis_lightning.tokens.tokenizer import fingerprints
from metis_lightning.trainer.token_extraction import Extraction, TokenWriter, extract
from metis_lightning.weights.build import load_tokenizer
from tiny import STAGE1, stage2_config

KINDS = ("ssl", "acoustic")
SECONDS = 2.1


def data(recipe: Recipe, tokens: Path | None = None) -> StarterDataModule:
    return StarterDataModule(recipe=recipe, batch_seconds=10.0, max_seconds=SECONDS, tokens=tokens)


def corpora() -> list[SpeechCorpus]:
    return list(data(PlainRecipe()).corpora().values())


def trainer(folder: Path, devices: int = 1, *callbacks: lightning.Callback) -> Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        callbacks=[TokenWriter(), *callbacks],
        max_steps=2,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def stores(root: Path, bundle: Path, kinds: tuple[str, ...] = KINDS) -> dict[str, TokenStore]:
    found = fingerprints(load_tokenizer(bundle), kinds)
    return {kind: TokenStore(root, kind, value) for kind, value in found.items()}


def content(root: Path, bundle: Path) -> dict[tuple[str, str], torch.Tensor]:
    opened = stores(root, bundle)
    return {
        (kind, u.id): store.read(u, lambda corpus=corpus, i=i: corpus.samples(i))
        for kind, store in opened.items()
        for corpus in corpora()
        for i, u in enumerate(corpus.utterances)
    }


@pytest.fixture(scope="module")
def root(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    extract(trainer(folder), load_tokenizer(tiny_bundle), corpora(), folder, Extraction(KINDS, 20.0, shard_size=7))
    return folder


def test_stored_tokens_are_those_of_each_utterance_alone(root: Path, tiny_bundle: Path) -> None:
    tokenizer, found = load_tokenizer(tiny_bundle), content(root, tiny_bundle)
    count = sum(map(len, corpora()))
    assert [len(store) for store in stores(root, tiny_bundle).values()] == [count, count]
    for corpus in corpora():
        for index, utterance in enumerate(corpus.utterances):
            wave = corpus.wave(index)[None]
            ssl, frames = tokenizer.ssl_tokens(wave, torch.tensor([wave.shape[1]]))
            assert torch.equal(found["ssl", utterance.id].long(), ssl[0, : int(frames)])
            assert torch.equal(found["acoustic", utterance.id].long(), tokenizer.acoustic_tokens(wave)[0])
    assert {value.dtype for value in found.values()} == {torch.int16}


class Interrupted(lightning.Callback):
    """An error, or the end of the process, in the middle of a run."""

    def __init__(self, fail: Callable[[], None]) -> None:
        self.fail = fail

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if args[2] == 1:
            self.fail()


def _fail() -> None:
    raise RuntimeError("the node went away")


def test_an_interrupted_run_continues_and_processes_share_the_rest(
    root: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    tokenizer, extraction = load_tokenizer(tiny_bundle), Extraction(KINDS, 20.0, shard_size=5)
    with pytest.raises(RuntimeError, match="went away"):
        extract(trainer(tmp_path, 1, Interrupted(_fail)), tokenizer, corpora(), tmp_path, extraction)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    partly = len(stores(tmp_path, tiny_bundle)["ssl"])
    assert 0 < partly < sum(map(len, corpora()))
    extract(trainer(tmp_path, 2), tokenizer, corpora(), tmp_path, extraction)
    expected, found = content(root, tiny_bundle), content(tmp_path, tiny_bundle)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    # Nothing was made twice, and what was there is as it was.
    assert len(stores(tmp_path, tiny_bundle)["ssl"]) == sum(map(len, corpora()))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(tmp_path.rglob(".*.safetensors"))


def test_a_kind_more_is_added_to_what_is_there(root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    tokenizer, short = load_tokenizer(tiny_bundle), [SpeechCorpus(list(corpora()[1].utterances)[:3])]
    for kinds in (("ssl",), ("ssl", "features")):
        extract(trainer(tmp_path), tokenizer, short, tmp_path, Extraction(kinds, 20.0))
    opened = stores(tmp_path, tiny_bundle, ("ssl", "features"))
    assert [len(store) for store in opened.values()] == [3, 3]
    wave = short[0].wave(1)[None]
    expected, frames = tokenizer.ssl_features(wave, torch.tensor([wave.shape[1]]))
    found = opened["features"].read(short[0].utterances[1], lambda: short[0].samples(1))
    torch.testing.assert_close(found.float(), expected[0, : int(frames)], rtol=1e-3, atol=1e-3)


def losses(module: TrainableModule, data_module: SpeechDataModule, folder: Path) -> dict[str, float]:
    """What a validation over one batch logs."""
    (found,) = trainer(folder).validate(module, datamodule=data_module, verbose=False)
    return found


def pretrain(bundle: Path) -> PretrainModule:
    torch.manual_seed(0)
    return PretrainModule(STAGE1, str(bundle))


def stage2(bundle: Path) -> SemanticToAcousticModule:
    torch.manual_seed(0)
    config: SemanticToAcousticConfig = stage2_config(3, 1)
    return SemanticToAcousticModule("s2a_full", config, str(bundle))


def tse(bundle: Path) -> TseModule:
    torch.manual_seed(0)
    return TseModule(str(bundle), lora_rank=2)


def tts(bundle: Path) -> TtsModule:
    torch.manual_seed(0)
    return TtsModule(text="utf8", base=str(bundle), lora_rank=0)


@pytest.mark.parametrize(
    ("make", "recipe"), [(pretrain, PlainRecipe()), (stage2, PlainRecipe()), (tts, TtsRecipe())], ids=["1", "2", "tts"]
)
def test_training_on_the_store_is_training_on_the_audio(
    make: Callable[[Path], TrainableModule], recipe: Recipe, root: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    heard = losses(make(tiny_bundle), data(recipe), tmp_path)
    read = losses(make(tiny_bundle), data(recipe, root), tmp_path)
    assert heard == read
    assert heard["val/loss"] > 0


@pytest.mark.parametrize("enrollment", ["prefix", "utterance"])
def test_extraction_takes_its_targets_from_the_store(
    enrollment: str, root: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    recipe = TseRecipe(enrollment=enrollment, max_prompt_seconds=0.5)
    module, stored = tse(tiny_bundle), data(recipe, root)
    run = trainer(tmp_path)
    run.fit(module, datamodule=stored)
    batch = next(iter(stored.train_dataloader()))
    heard = next(iter(data(recipe).train_dataloader()))
    assert batch.ids == heard.ids
    assert torch.equal(batch.source, heard.source)
    frames = module.tokenizer.num_frames(batch.lengths)
    assert batch.ssl_tokens.shape[1] >= int(frames.max())
    prompts = batch.prompt_lengths // 480
    opened = stores(root, tiny_bundle)["ssl"]
    corpus = stored.corpora()["train"]
    for row, name in enumerate(batch.ids):
        index = corpus.index_of(name)
        whole = opened.read(corpus.utterances[index], lambda i=index: corpus.samples(i)).long()
        start = int(prompts[row]) if enrollment == "utterance" else 0
        assert torch.equal(batch.ssl_tokens[row, start : int(frames[row])], whole[: int(frames[row]) - start])


def test_no_audio_is_read_where_tokens_are_enough(root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    class Deaf(StarterDataModule):
        """A corpus whose audio has gone, as on a machine that has the tokens only."""

        def utterances(self):  # noqa: ANN202
            listed = super().utterances()
            for utterance in listed:
                object.__setattr__(utterance, "path", tmp_path / utterance.path.name)
            return listed

    kept = Deaf(recipe=PlainRecipe(max_seconds=1.0), batch_seconds=10.0, max_seconds=SECONDS, tokens=root)
    trainer(tmp_path).fit(pretrain(tiny_bundle), datamodule=kept)
    batch = next(iter(kept.train_dataloader()))
    assert batch.wave.shape == (len(batch.ids), 0)
    assert int(batch.lengths.max()) <= 24_000
    assert batch.ssl_tokens.shape[1] == int(batch.lengths.max()) // 480


def test_another_tokenizer_or_an_audio_module_is_refused(root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    module = pretrain(tiny_bundle)
    with torch.no_grad():
        module.tokenizer.semantic_codec.quantizer.stages[0].codebook.weight[0] += 1
    with pytest.raises(UserError, match=r"it lacks \d+ of \d+ utterances; run `prepare tokens`"):
        trainer(tmp_path).fit(module, datamodule=data(PlainRecipe(), root))
    with pytest.raises(UserError, match="trains on audio, not on tokens: leave data.tokens out"):
        trainer(tmp_path).fit(SemanticCodecModule(), datamodule=data(PlainRecipe(), root))


def test_a_recipe_that_does_not_say_what_its_waves_are_is_refused(
    root: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    class Backwards(Recipe):
        def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
            return SpeechItem(corpus.utterances[index].id, "s", "t", corpus.wave(index).flip(0))

        def seconds(self, corpus: SpeechCorpus, index: int) -> float:
            return corpus.seconds(index)

    with pytest.raises(UserError, match="does not say of which `pieces` its wave is made"):
        trainer(tmp_path).fit(pretrain(tiny_bundle), datamodule=data(Backwards(), root))


def test_the_store_survives_a_kill(tiny_bundle: Path, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        try:
            extract(
                trainer(tmp_path, 1, Interrupted(lambda: os._exit(9))),
                load_tokenizer(tiny_bundle),
                corpora(),
                tmp_path,
                Extraction(("ssl",), 20.0, shard_size=3),
            )
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    stored = len(stores(tmp_path, tiny_bundle)["ssl"])
    assert stored > 0
    assert stored % 3 == 0
    extract(trainer(tmp_path), load_tokenizer(tiny_bundle), corpora(), tmp_path, Extraction(("ssl",), 20.0))
    assert len(stores(tmp_path, tiny_bundle)["ssl"]) == sum(map(len, corpora()))
