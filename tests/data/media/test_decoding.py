"""What a file holds, not what its header says: every reader gets the same length, or a fault."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from metis_lightning.data.media.audio import audio_seconds, decode, read_audio, stream_audio
from metis_lightning.data.media.containers import AudioFault
from metis_lightning.data.media.inspection import inspect_audio
from metis_lightning.data.recipes.se import RecordingFolder
from metis_lightning.errors import UserError
from odd_audio import LYING, RATE, SOUND, THREE, encoded, flac_of, mp3_frames, voice, write

READ = {name: seconds for name, (_, seconds, _) in LYING.items() if seconds is not None}
REFUSED = {name: kind for name, (_, seconds, kind) in LYING.items() if seconds is None}


@pytest.mark.parametrize(
    ("name", "seconds"), [*((name, seconds) for name, (_, seconds) in SOUND.items()), *READ.items()]
)
def test_every_reader_gives_what_decodes(tmp_path: Path, name: str, seconds: float) -> None:
    path = write(tmp_path, name)
    whole, streamed = read_audio(path, RATE), torch.cat(list(stream_audio(path, RATE)))
    assert len(whole) / RATE == pytest.approx(seconds, abs=0.06)
    assert torch.equal(whole, streamed) or (whole - streamed).abs().max() < 1e-5
    assert audio_seconds(path) == pytest.approx(len(whole) / RATE, abs=1e-4)
    frames, rate = decode(path.read_bytes(), name)
    assert len(frames) / rate == pytest.approx(audio_seconds(path))
    # Nothing that was heard before is heard again behind the end.
    assert float(whole[-2400:].square().mean().sqrt()) > 0.01


@pytest.mark.parametrize(("name", "kind"), REFUSED.items())
def test_what_is_no_sound_is_one_line(tmp_path: Path, name: str, kind: str) -> None:
    path = write(tmp_path, name)
    with pytest.raises(UserError) as error:
        read_audio(path, RATE)
    assert kind.replace("unreadable audio", "not a readable audio file") in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    with pytest.raises(UserError):
        list(stream_audio(path, RATE))


@pytest.mark.parametrize("decoded", [True, False], ids=["decode", "header"])
@pytest.mark.parametrize("name", SOUND)
def test_prepare_lists_what_decodes(name: str, decoded: bool) -> None:
    data, seconds = SOUND[name]
    assert inspect_audio(data, decoded).seconds == pytest.approx(seconds, abs=0.06)


@pytest.mark.parametrize("name", LYING)
def test_prepare_refuses_headers_that_lie(name: str) -> None:
    with pytest.raises(AudioFault) as odd:
        inspect_audio(LYING[name][0])
    assert LYING[name][2] in odd.value.kind
    if name not in ("kaldi_scale", "scale_of_8_bits", "nan", "infinite", "opposite", "flac_cut"):
        with pytest.raises(AudioFault):
            inspect_audio(LYING[name][0], decode=False)


def test_both_parts_of_what_was_joined_are_heard(tmp_path: Path) -> None:
    for kind in (("WAV", "PCM_16"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)):
        first, second = voice(1.0, 1), voice(2.0, 2)
        path = tmp_path / "joined"
        path.write_bytes(encoded(first, *kind) + encoded(second, *kind))
        read = read_audio(path, RATE).numpy()
        expected = np.concatenate([first, second])
        assert len(read) == len(expected)
        assert np.corrcoef(read, expected)[0, 1] > 0.8


@pytest.mark.parametrize("name", ["flac_too_long", "mp3_cut", "opus_joined", "mp3_no_length_cover", "flac_unknown"])
def test_a_part_is_what_stands_there(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    whole = read_audio(path, RATE)
    start, length = len(whole) // 2 / RATE, 0.25
    part = read_audio(path, RATE, part=(start, length))
    expected = whole[round(start * RATE) :][: round(length * RATE)]
    assert part.shape == expected.shape
    assert (part - expected).abs().max() < 0.02


def test_noise_is_drawn_from_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "noise.flac").write_bytes(flac_of(THREE, 2**36 - 1))
    for seed in range(8):
        wave, _ = RecordingFolder(tmp_path).draw(torch.Generator().manual_seed(seed), RATE)
        assert len(wave) == RATE


def test_memory_does_not_grow_with_what_a_header_claims(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    path.write_bytes(flac_of(voice(20.0), 2**36 - 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read_audio(path, RATE)) == 20 * RATE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_flac_of_an_hour_of_silence_is_counted_in_blocks_and_not_read_beyond_what_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "silence.flac"
    soundfile.write(path, np.zeros(3600 * 8000, np.int16), 8000)
    assert audio_seconds(path) == 3600
    with pytest.raises(UserError, match="lasts more than 60 s"):
        read_audio(path, 8000, longest=60.0)


def test_one_dead_channel_and_one_chosen_are_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "dead.wav", np.stack([THREE, 0 * THREE], 1), RATE)
    soundfile.write(tmp_path / "opposite.wav", np.stack([THREE, -THREE], 1), RATE)
    assert len(read_audio(tmp_path / "dead.wav", RATE)) == 3 * RATE
    assert len(read_audio(tmp_path / "opposite.wav", RATE, channel=0)) == 3 * RATE
    with pytest.raises(UserError, match="channel 2 of 2"):
        read_audio(tmp_path / "dead.wav", RATE, channel=2)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("data", [b"\xff\xfb\x90\x00", b"OggS", b"ID3\x03\0\0\0\0\0\0", b"\xff\xfb", b"fLaC\0\0\0\x22"])
def test_repeated_marks_take_bounded_time(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.mp3"
    path.write_bytes(data * (2_000_000 // len(data)))
    with pytest.raises(UserError):
        read_audio(path, RATE)


def test_frames_of_a_broadcast_that_begins_within_one(tmp_path: Path) -> None:
    data = mp3_frames(3.0, rate=44_100)
    path = tmp_path / "radio.mp3"
    path.write_bytes(data[:2] + data[300:])
    assert len(read_audio(path, RATE)) / RATE == pytest.approx(3.0, abs=0.1)


def test_thousands_of_joined_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "many.wav").write_bytes(encoded(voice(0.01), "WAV") * 3000)
    with pytest.raises(UserError, match="joined audio .more than 1000 files"):
        read_audio(tmp_path / "many.wav", RATE)
