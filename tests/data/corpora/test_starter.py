import pickle

import lightning as L
import pytest
import torch

from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.corpora.starter_tests import STARTER_ROOT, StarterTests
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.media.mixing import rms
from metis_lightning.data.recipes.recipe import PlainRecipe
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.errors import UserError


def epoch_of(loader, epoch):
    loader.batch_sampler.set_epoch(epoch)
    return {batch.ids: batch for batch in loader}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k].wave, second[k].wave) for k in first)


def test_train_is_new_and_validation_the_same_in_each_epoch(tones):
    data = StarterDataModule(PlainRecipe(crop_seconds=0.5), root=tones, batch_seconds=1.0)
    train, val = data.train_dataloader(), data.val_dataloader()
    first = epoch_of(train, 0)
    assert sorted(i for ids in first for i in ids) == ["ada_0", "ada_1", "ada_2", "bob_0", "bob_1", "bob_2"]
    assert all(batch.wave.shape == (2, 12_000) for batch in first.values())
    assert not same(first, epoch_of(train, 1))
    assert same(first, epoch_of(train, 0))
    assert sorted(i for ids in epoch_of(val, 0) for i in ids) == ["eve_0", "eve_1", "eve_2"]
    assert same(epoch_of(val, 0), epoch_of(val, 5))


def test_workers_change_nothing_and_follow_the_epoch(tones):
    batches = []
    for workers in (0, 2):
        data = StarterDataModule(TseRecipe(), root=tones, batch_seconds=4.0, num_workers=workers)
        loader = data.train_dataloader()
        batches.append([epoch_of(loader, epoch) for epoch in (0, 1)])
    assert all(same(*pair) for pair in zip(*batches, strict=True))
    assert not same(*batches[0])


def test_the_dataset_can_be_sent_to_a_spawned_worker(tones):
    dataset = StarterDataModule(TseRecipe(), root=tones).train_dataloader().dataset
    sent = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(sent[(0, 1)].source, dataset[(0, 1)].source)


def test_long_utterances_are_left_out_and_none_is_an_error(tones):
    data = StarterDataModule(PlainRecipe(), root=tones, max_seconds=1.2)
    assert sorted(i for ids in epoch_of(data.train_dataloader(), 0) for i in ids) == ["ada_0", "bob_0"]
    with pytest.raises(UserError, match="no utterances"):
        StarterDataModule(PlainRecipe(), root=tones, max_seconds=0.1).train_dataloader()
    with pytest.raises(UserError, match="no such manifest"):
        StarterDataModule(PlainRecipe(), root=tones / "none").setup()


class _Recorder(L.LightningModule):
    """Keeps what it is given; learns nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch):
        self.seen.append(batch.wave)
        return self.weight * 0.0

    def validation_step(self, batch):
        assert batch.wave.dim() == 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_announces_the_epochs(tones):
    module = _Recorder()
    data = StarterDataModule(PlainRecipe(crop_seconds=0.5), root=tones, batch_seconds=3.0)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    loader = data.train_dataloader()
    expected = [batch.wave for epoch in (0, 1) for batch in epoch_of(loader, epoch).values()]
    assert [torch.equal(*pair) for pair in zip(module.seen, expected, strict=True)] == [True, True]


def test_embedded_splits():
    data = StarterDataModule(PlainRecipe())
    train = data.train_dataloader().dataset.corpus
    assert len(train) == 1340
    assert len(data.val_dataloader().dataset) == 127
    assert sum(u.seconds for u in train.utterances) / 60 == pytest.approx(85.8, abs=0.1)


def test_embedded_corpus_comes_with_its_licences():
    names = {path.name for path in (STARTER_ROOT / "LICENSES").iterdir()}
    assert names == {"CC-BY-3.0.txt", "CC-BY-SA-3.0.txt"}
    assert (STARTER_ROOT / "README.md").is_file()


def test_items_of_the_test_sets():
    tests = StarterTests()
    assert tests.test_sets == ("test-human", "test-unseen")
    for test_set in tests.test_sets:
        trial = tests.load_trials(test_set)[1]
        item = tests.load_item(trial)
        assert (item.id, item.test_set) == (trial.id, test_set)
        assert torch.equal(item.mixture, item.target + item.interferer)
        snr_db = 20 * torch.log10(torch.tensor(rms(item.target) / rms(item.interferer)))
        assert float(snr_db) == pytest.approx(trial.snr_db, abs=1e-3)
        assert float(item.mixture.abs().max()) <= 0.9901
        assert not torch.equal(item.enrollment, item.target)
    assert tests.load_item(tests.load_trials("test-human")[1]).language == "fr"
    with pytest.raises(UserError, match="choose from test-human, test-unseen"):
        tests.load_trials("test-text")


def test_a_test_target_is_the_recording():
    tests = StarterTests()
    trial = tests.load_trials("test-unseen")[0]
    item = tests.load_item(trial)
    recording = read_audio(STARTER_ROOT / f"audio/synthetic/af-bella/{trial.target}.opus", 24_000)
    gain = rms(item.target) / rms(recording)
    assert 0.4 < gain <= 1.001
    assert (item.target - recording * gain).abs().max() < 1e-4
