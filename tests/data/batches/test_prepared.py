"""What is kept of a prepared corpus, and its batches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fake_corpora import emilia_members, put, tar_bytes
from metis_lightning.data.batches.module import PreparedDataModule
from metis_lightning.data.corpora.emilia import EmiliaScan
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.manifest.selection import Selection, hold_out, select
from metis_lightning.data.manifest.table import UtteranceTable
from metis_lightning.data.manifest.test_sets import write_trials
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.errors import UserError
from metis_lightning.types import Trial, Utterance


def utterance(number: int, **changes: object) -> Utterance:
    """Speaker n // 10 has ten utterances of 36 s (0.01 h)."""
    fields = {"text": "", "language": "en", "seconds": 36.0, "sample_rate": 24_000, "split": "train", "dnsmos": 3.0}
    return Utterance(**{"id": f"u{number}", "path": Path("a.wav"), "speaker": f"s{number // 10}", **fields, **changes})


EVERYONE = [utterance(n, language="de" if n % 4 == 0 else "en", dnsmos=3 + n / 1000) for n in range(200)]


def kept(listed=EVERYONE, **options):
    return list(select(UtteranceTable.of(listed), Selection(**options)))


def held_out(listed, dev_hours=0.5):
    return list(hold_out(UtteranceTable.of(listed), "dev", dev_hours))


def test_filters():
    assert kept() == EVERYONE
    assert kept(languages=("de",)) == EVERYONE[::4]
    assert kept(languages=("zh",)) == []
    assert kept(min_dnsmos=3.1) == EVERYONE[100:]
    longer = [replace(u, seconds=float(n)) for n, u in enumerate(EVERYONE)]
    assert kept(longer, seconds=(5.0, 7.0)) == longer[5:8]
    few = [*EVERYONE[:11], EVERYONE[30]]
    assert kept(few, min_per_speaker=2) == EVERYONE[:10]
    # Speakers are counted after the other filters.
    assert kept(languages=("de",), min_per_speaker=3) == [u for u in EVERYONE[::4] if int(u.speaker[1:]) % 2 == 0]
    with pytest.raises(UserError, match="'u0' has no dnsmos"):
        kept([replace(EVERYONE[0], dnsmos=None)], min_dnsmos=3.0)


def test_speakers_are_held_out_for_validation():
    held = held_out(EVERYONE, 0.15)
    dev = {u.speaker for u in held if u.split == "dev"}
    assert len(dev) == 2
    assert dev.isdisjoint(u.speaker for u in held if u.split == "train")
    assert [u.id for u in held] == [u.id for u in EVERYONE]
    # The same voices in any order; never more than a tenth.
    assert {u.speaker for u in held_out(EVERYONE[::-1], 0.15) if u.split == "dev"} == dev
    assert len({u.speaker for u in held_out(EVERYONE, 50) if u.split == "dev"}) == 2
    three = [u for u in EVERYONE if u.speaker in ("s1", "s2", "s3")]
    assert len({u.speaker for u in held_out(three) if u.split == "dev"}) == 1
    own = [*EVERYONE, utterance(500, split="dev")]
    assert held_out(own) == own
    alone = held_out(EVERYONE[:10])
    assert sum(u.split == "dev" for u in alone) == 1
    assert held_out(EVERYONE[:1]) == EVERYONE[:1]


@pytest.fixture
def emilia(tmp_path):
    members = [m for s in range(4) for m in emilia_members(f"EN_B00000_S0000{s}", range(3), 1.0)]
    put(tmp_path / "Emilia/EN/EN-B000000.tar", tar_bytes(members))
    build_manifest(EmiliaScan(str(tmp_path / "Emilia")), BuildOptions(tmp_path / "m.jsonl"))
    return tmp_path


def test_batches_come_out_of_tars_in_any_order_and_from_workers(emilia):
    def batches(workers):
        data = PreparedDataModule(
            TseRecipe(enrollment="utterance", max_prompt_seconds=0.5),
            emilia / "m.jsonl",
            root=str(emilia / "Emilia"),
            batch_seconds=6.0,
            num_workers=workers,
            cache=False,
        )
        return list(data.train_dataloader()), list(data.val_dataloader())

    train, val = batches(0)
    assert sum(len(batch.ids) for batch in train) == 6
    assert sum(len(batch.ids) for batch in val) == 6
    assert all(bool((batch.prompt_lengths == 12_000).all()) for batch in train)
    for first, second in zip(train, batches(2)[0], strict=True):
        assert first.ids == second.ids
        assert torch.equal(first.source, second.source)


def test_test_items_are_left_out_and_damage_is_found(emilia):
    name = "EN_B00000_S00001_W00000"
    write_trials(emilia / "t.jsonl", [Trial("t", "emiliamix", f"{name}0", f"{name}1", f"{name}2")])
    root = str(emilia / "Emilia")
    data = PreparedDataModule(TseRecipe(), emilia / "m.jsonl", root=root, leave_out=emilia / "t.jsonl")
    assert {u.speaker[-1] for u in data.utterances()} == {"0", "2", "3"}
    with pytest.raises(UserError, match="nothing is left"):
        PreparedDataModule(TseRecipe(), emilia / "m.jsonl", root=root, selection=Selection(languages=("zh",))).setup()
    (emilia / "m.jsonl").write_bytes((emilia / "m.jsonl").read_bytes()[:-5])
    with pytest.raises(UserError, match="checksum"):
        PreparedDataModule(TseRecipe(), emilia / "m.jsonl", root=root).setup()
    with pytest.raises(UserError, match="no such manifest"):
        PreparedDataModule(TseRecipe(), emilia / "n.jsonl", root=root).setup()
