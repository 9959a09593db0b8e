"""What is kept of a prepared corpus, and its batches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fake_corpora import emilia_members, put, tar_bytes
from metis_lightning.data.build import BuildOptions, build_manifest
from metis_lightning.data.emilia import EmiliaScan
from metis_lightning.data.prepared import PreparedDataModule
from metis_lightning.data.selection import Selection, hold_out, select
from metis_lightning.data.trials import write_trials
from metis_lightning.data.tse import TseRecipe
from metis_lightning.errors import UserError
from metis_lightning.types import Trial, Utterance


def utterance(number: int, **changes: object) -> Utterance:
    """Speaker n // 10 has ten utterances of 36 s (0.01 h)."""
    fields = {"text": "", "language": "en", "seconds": 36.0, "sample_rate": 24_000, "split": "train", "dnsmos": 3.0}
    return Utterance(**{"id": f"u{number}", "path": Path("a.wav"), "speaker": f"s{number // 10}", **fields, **changes})


EVERYONE = [utterance(n, language="de" if n % 4 == 0 else "en", dnsmos=3 + n / 1000) for n in range(200)]


def kept(listed=EVERYONE, **options):
    return list(select(lambda: iter(listed), Selection(**options)))


def test_filters():
    assert kept() == EVERYONE
    assert kept(languages=("de",)) == EVERYONE[::4]
    assert kept(min_dnsmos=3.1) == EVERYONE[100:]
    longer = [replace(u, seconds=float(n)) for n, u in enumerate(EVERYONE)]
    assert kept(longer, seconds=(5.0, 7.0)) == longer[5:8]
    few = [*EVERYONE[:11], EVERYONE[30]]
    assert kept(few, min_per_speaker=2) == EVERYONE[:10]
    with pytest.raises(UserError, match="'u0' has no dnsmos"):
        kept([replace(EVERYONE[0], dnsmos=None)], min_dnsmos=3.0)


@pytest.mark.parametrize("hours", [0.0, 0.005, 0.2, 0.555, 1.99, 2.0, 5.0])
def test_the_cap_takes_as_much_as_fits_in_whole_speakers_save_one(hours):
    chosen = kept(hours=hours + 1e-9)
    assert len(chosen) == min(200, int(hours / 0.01 + 1e-6))
    counts = [sum(u.speaker == f"s{s}" for u in chosen) for s in range(20)]
    assert sum(0 < count < 10 for count in counts) <= 1


def test_a_smaller_choice_is_part_of_a_larger_and_of_any_order():
    small, large = set(kept(hours=0.4)), set(kept(hours=1.0))
    assert small < large
    assert set(kept(EVERYONE[::-1], hours=0.4)) == small
    assert set(kept(hours=0.4, seed=1)) != small
    others = [utterance(500, split="dev"), *EVERYONE]
    assert set(kept(others, hours=0.4)) == {others[0]} | small


def test_speakers_are_held_out_for_validation():
    held = hold_out(EVERYONE, Selection(dev_hours=0.15), "dev")
    dev = {u.speaker for u in held if u.split == "dev"}
    assert len(dev) == 2
    assert dev.isdisjoint(u.speaker for u in held if u.split == "train")
    assert [u.id for u in held] == [u.id for u in EVERYONE]
    # The same voices whatever the cap, and never more than a tenth.
    capped = hold_out(kept(hours=0.6), Selection(dev_hours=0.05), "dev")
    assert {u.speaker for u in capped if u.split == "dev"} == dev
    three = [u for u in EVERYONE if u.speaker in ("s1", "s2", "s3")]
    assert len({u.speaker for u in hold_out(three, Selection(), "dev") if u.split == "dev"}) == 1
    own = [*EVERYONE, utterance(500, split="dev")]
    assert hold_out(own, Selection(), "dev") == own
    alone = hold_out(EVERYONE[:10], Selection(), "dev")
    assert sum(u.split == "dev" for u in alone) == 1


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
