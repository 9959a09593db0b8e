import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from metis_lightning.data.batches.sampler import collate
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import write_wav
from metis_lightning.data.media.corruption import synthetic_room
from metis_lightning.data.media.mixing import rms
from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.data.recipes.se import Corruptions, RecordingFolder, SeRecipe
from metis_lightning.errors import UserError

CLEAN = {"room_chance": 0.0, "noise_chance": 0.0, "band_chance": 0.0}


def only(name):
    return Corruptions(**{**CLEAN, name: 1.0})


def draws(recipe, corpus, count):
    return [recipe(corpus, 0, derived_generator(seed)) for seed in range(count)]


def test_the_target_is_clean_and_there_is_no_prompt(corpus):
    for item in draws(SeRecipe(), corpus, 10):
        assert torch.equal(item.wave, corpus.wave(0) * item.applied["gain"])
        assert item.source.shape == item.wave.shape
        assert item.prompt_length == 0
        assert float(item.source.abs().max()) <= 0.9901
    assert SeRecipe().seconds(corpus, 1) == 1.5


def test_chances_are_the_papers(corpus):
    """Within four standard deviations over 200 draws."""
    items = draws(SeRecipe(), corpus, 200)
    counts = Counter(name for item in items for name in item.applied)
    for name, chance in (("room", 0.35), ("noise", 0.9), ("cutoff_hz", 0.25)):
        assert abs(counts[name] / 200 - chance) < 4 * math.sqrt(chance * (1 - chance) / 200)
    snrs = [item.applied["snr_db"] for item in items if "snr_db" in item.applied]
    assert counts["snr_db"] == counts["noise"]
    assert -5 <= min(snrs) < -4
    assert 19 < max(snrs) < 20
    assert {item.applied["cutoff_hz"] for item in items if "cutoff_hz" in item.applied} == {2000, 4000, 8000}
    assert {item.applied["noise"] for item in items if "noise" in item.applied} == {"babble", "coloured"}


def test_the_record_is_what_was_done(corpus):
    for item in draws(SeRecipe(only("noise_chance")), corpus, 20):
        snr_db = 20 * math.log10(rms(item.wave) / rms(item.source - item.wave))
        assert snr_db == pytest.approx(item.applied["snr_db"], abs=1e-2)
        assert ("voices" in item.applied) == (item.applied["noise"] == "babble") != ("slope_db" in item.applied)
        voices = str(item.applied.get("voices", "bob_0 bob_1 eve_0")).split()
        assert 3 <= len(voices) <= 6
        assert {corpus.utterances[corpus.index_of(voice)].speaker for voice in voices} <= {"bob", "eve"}
    (room,) = draws(SeRecipe(only("room_chance")), corpus, 1)
    assert set(room.applied) == {"room", "rt60", "direct_db", "gain"}
    untouched = SeRecipe(Corruptions(**CLEAN))(corpus, 0, derived_generator(0))
    assert untouched.applied == {"gain": 1.0}
    assert torch.equal(untouched.source, untouched.wave)
    assert collate([room, untouched]).applied == (room.applied, untouched.applied)


def test_the_same_generator_gives_the_same_item(corpus):
    first, again, other = (SeRecipe()(corpus, 0, derived_generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.source, again.source)
    assert first.applied == again.applied != other.applied
    assert not torch.equal(first.source, other.source)


def test_a_prompt_is_a_clean_prefix(corpus):
    recipe = SeRecipe(only("noise_chance"), prompt_fraction=(0.2, 0.4))
    item = recipe(corpus, 2, derived_generator(0))
    start = item.prompt_length
    assert start % 480 == 0
    assert 0.2 * 48_000 - 480 < start < 0.4 * 48_000
    assert torch.equal(item.source[:start], item.wave[:start])
    assert not torch.equal(item.source[start:], item.wave[start:])


def test_one_speaker_has_no_babble(corpus):
    items = draws(SeRecipe(only("noise_chance")), SpeechCorpus(corpus.utterances[:3]), 20)
    assert {item.applied["noise"] for item in items} == {"coloured"}


def test_recordings_of_the_users_are_taken(corpus, tone, tmp_path):
    write_wav(tmp_path / "noise" / "street" / "a.wav", tone(0.3, 1000), 24_000)
    write_wav(tmp_path / "noise" / "b.WAV", tone(3.0, 2000), 24_000)
    write_wav(tmp_path / "rir" / "r.wav", 0.5 * synthetic_room(0.3, 3.0, 24_000, derived_generator(0)), 24_000)
    recipe = SeRecipe(only("noise_chance"), noise_root=tmp_path / "noise")
    assert {item.applied["noise"] for item in draws(recipe, corpus, 20)} == {"street/a.wav", "b.WAV"}
    recipe = SeRecipe(only("room_chance"), rir_root=tmp_path / "rir")
    assert {item.applied["room"] for item in draws(recipe, corpus, 3)} == {"r.wav"}


def test_of_a_long_recording_a_part_is_read(tmp_path, tone):
    """Also behind a link, as a folder of several noise corpora would have."""
    write_wav(tmp_path / "elsewhere" / "long.wav", 0.9 * torch.rand(5_000, generator=derived_generator(0)), 24_000)
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "link").symlink_to(tmp_path / "elsewhere")
    recordings = RecordingFolder(tmp_path / "noise")
    whole, name = recordings.draw(derived_generator(0))
    assert (whole.numel(), name) == (5_000, "link/long.wav")
    starts = set()
    for seed in range(10):
        part, _ = recordings.draw(derived_generator(seed), 1_000)
        (found,) = (whole.unfold(0, 1_000, 1) == part).all(dim=1).nonzero().flatten().tolist()
        starts.add(found)
    assert len(starts) > 5
    assert torch.equal(recordings.draw(derived_generator(1), 6_000)[0], whole)


def test_silence_gets_no_noise_and_silent_noise_is_none(corpus, tone, tmp_path):
    write_wav(tmp_path / "noise" / "zero.wav", torch.zeros(48_000), 24_000)
    item = SeRecipe(only("noise_chance"), noise_root=tmp_path / "noise")(corpus, 0, derived_generator(0))
    assert item.applied == {"gain": 1.0}
    assert torch.equal(item.source, item.wave)
    write_wav(tmp_path / "silent.wav", torch.zeros(24_000), 24_000)
    silent = SpeechCorpus([replace(corpus.utterances[0], path=tmp_path / "silent.wav"), *corpus.utterances[1:]])
    for item in draws(SeRecipe(), silent, 10):
        assert "snr_db" not in item.applied
        assert torch.equal(item.source, torch.zeros(24_000))


def test_wrong_folders_are_the_users_mistake(corpus, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        SeRecipe(only("noise_chance"), noise_root=tmp_path / "nowhere")(corpus, 0, derived_generator(0))
    with pytest.raises(UserError, match=r"no \.wav or \.flac file"):
        SeRecipe(only("room_chance"), rir_root=tmp_path)(corpus, 0, derived_generator(0))


@pytest.mark.parametrize(
    "arguments", [{"room_chance": 1.5}, {"noise_chance": -0.1}, {"snr_range": (5.0, 0.0)}, {"cutoffs_hz": ()}]
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Corruptions(**arguments)
