"""Audio files as they are met in the wild: cut, joined, streamed, and with headers that lie."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

RATE = 24_000


def voice(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Return float32 samples (S,): noise with the rhythm of syllables, which no codec makes shorter."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(size=len(time))
    return (0.1 * noise * (1 + np.sin(2 * np.pi * 4 * time)) / 2 + 0.1 * np.sin(600 * time)).astype(np.float32)


def encoded(wave: np.ndarray, kind: str, subtype: str | None = None, rate: int = RATE, **options: object) -> bytes:
    """Return the bytes of an audio file."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype, **options)  # type: ignore[arg-type]
    return file.getvalue()


def mp3_frames(seconds: float, level: float = 0.5, mode: str = "CONSTANT", rate: int = RATE) -> bytes:
    """Return an MP3 without the frame that tells its length."""
    data = encoded(voice(seconds, rate=rate), "MP3", rate=rate, compression_level=level, bitrate_mode=mode)
    has_tag = b"Xing" in data[:200] or b"Info" in data[:200]
    return data[data.index(data[:2], 10) :] if has_tag else data


def cover(size: int = 120_000) -> bytes:
    """Return an ID3v2.3 tag with a picture of so many bytes."""
    body = b"APIC" + (size - 10).to_bytes(4, "big") + b"\0\0" + bytes(size - 10)
    return b"ID3\x03\x00\x00" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + body


def flac_of(wave: np.ndarray, listed: int) -> bytes:
    """Return a FLAC whose header tells of another length."""
    data = bytearray(encoded(wave, "FLAC"))
    told = int.from_bytes(data[21:26], "big")
    data[21:26] = (told >> 36 << 36 | listed).to_bytes(5, "big")
    return bytes(data)


def wav_of(wave: np.ndarray, riff: int, data: int) -> bytes:
    """Return a 16-bit WAV whose header tells of other sizes in bytes."""
    raw = bytearray(encoded(wave, "WAV", "PCM_16"))
    at = raw.index(b"data")
    raw[4:8], raw[at + 4 : at + 8] = struct.pack("<I", riff), struct.pack("<I", data)
    return bytes(raw)


THREE = voice(3.0)
_MP3, _OGG, _OPUS = (encoded(THREE, *kind) for kind in (("MP3",), ("OGG", "VORBIS"), ("OGG", "OPUS")))
_WAV, _FLAC = encoded(THREE, "WAV", "PCM_16"), encoded(THREE, "FLAC")

SOUND: Mapping[str, tuple[bytes, float]] = {
    "mp3": (_MP3, 3.0),
    "mp3_tag_at_the_end": (_MP3 + b"TAG" + bytes(125), 3.0),
    "mp3_cover": (cover() + _MP3, 3.0),
    "mp3_44100": (encoded(THREE, "MP3", rate=44_100), 72_000 / 44_100),
    "mp3_8000": (encoded(THREE, "MP3", rate=8_000), 9.0),
    "mp3_stereo": (encoded(np.stack([THREE, THREE], 1), "MP3", rate=48_000), 1.5),
    "mp3_no_length": (mp3_frames(3.0), 3.03),
    "mp3_no_length_cover": (cover() + mp3_frames(3.0), 3.03),
    "mp3_no_length_44100": (cover() + mp3_frames(3.0, rate=44_100), 3.03),
    "mp3_vbr": (mp3_frames(3.0, mode="VARIABLE"), 3.03),
    "mp3_vbr_cover": (cover() + mp3_frames(3.0, mode="VARIABLE"), 3.03),
    "mp3_high_then_low": (mp3_frames(1.0, 0.0) + mp3_frames(19.0, 0.95), 20.1),
    "mp3_low_then_high": (mp3_frames(1.0, 0.95) + mp3_frames(3.0, 0.0), 4.1),
    "flac": (_FLAC, 3.0),
    "flac_tag_at_the_end": (_FLAC + b"TAG" + bytes(125), 3.0),
    "flac_zeros_at_the_end": (_FLAC + bytes(4096), 3.0),
    "flac_cover": (cover() + _FLAC, 3.0),
    "flac_unknown": (flac_of(THREE, 0), 3.0),
    "ogg": (_OGG, 3.0),
    "opus": (_OPUS, 3.0),
    "ogg_cut": (_OGG[: len(_OGG) // 2], 0.6),
    "wav_streamed_ffffffff": (wav_of(THREE, 0xFFFFFFFF, 0xFFFFFFFF), 3.0),
    "wav_streamed_7fffffff": (wav_of(THREE, 0x7FFFFFFF, 0x7FFFFFFF), 3.0),
    "wav_streamed_0": (wav_of(THREE, 0, 0), 3.0),
    "wav_junk_at_the_end": (_WAV + b"ID3\x03junk" * 5, 3.0),
    "wav_list_at_the_end": (_WAV + b"LIST" + struct.pack("<I", 40_000) + bytes(40_000), 3.0),
    "wav_rf64": (encoded(THREE, "RF64"), 3.0),
    "wav_ulaw": (encoded(THREE, "WAV", "ULAW", 8_000), 9.0),
    "wav_float64": (encoded(THREE, "WAV", "DOUBLE"), 3.0),
    "aiff": (encoded(THREE, "AIFF"), 3.0),
}
"""Sound files with the seconds that they hold; their headers tell the length, or say that they do not know it."""

LYING: Mapping[str, tuple[bytes, float | None, str]] = {
    "mp3_cut": (_MP3[: len(_MP3) // 2], 1.44, "truncated audio"),
    "mp3_joined": (_MP3 + _MP3, 6.0, "joined audio"),
    "mp3_joined_covers": ((cover() + _MP3) * 3, 9.0, "joined audio"),
    "mp3_joined_cut": (_MP3[: len(_MP3) // 2] + _MP3, 4.5, "joined audio"),
    "mp3_joined_then_no_length": (_MP3 + mp3_frames(3.0), 6.03, "joined audio"),
    "mp3_no_length_then_joined": (mp3_frames(3.0) + _MP3, 6.03, "joined audio"),
    "mp3_joined_rates": (_MP3 + encoded(THREE, "MP3", rate=44_100), None, "joined audio"),
    "ogg_joined": (_OGG + _OGG, 6.0, "joined audio"),
    "opus_joined": (_OPUS * 3, 9.0, "joined audio"),
    "ogg_joined_kinds": (_OGG + encoded(voice(1.0), "OGG", "VORBIS", 16_000), None, "joined audio"),
    "flac_joined": (_FLAC + _FLAC, 6.0, "joined audio"),
    "flac_too_long": (flac_of(THREE, 2**36 - 1), 3.0, "truncated audio"),
    "flac_a_little_too_long": (flac_of(THREE, 80_000), 3.0, "truncated audio"),
    "flac_too_short": (flac_of(THREE, 24_000), 3.0, "wrong length in the header"),
    "flac_cut": (_FLAC[: len(_FLAC) // 2], None, "unreadable audio"),
    "wav_joined": (_WAV + _WAV, 6.0, "joined audio"),
    "wav_too_short": (wav_of(THREE, 48_036, 48_000), None, "wrong length in the header"),
    "wav_cut": (_WAV[: len(_WAV) // 2], 1.5, "truncated audio"),
    "wav_rate_1": (_WAV[:24] + struct.pack("<I", 1) + _WAV[28:], None, "wrong sample rate"),
    "wav_rate_10_million": (_WAV[:24] + struct.pack("<I", 10**7) + _WAV[28:], None, "wrong sample rate"),
    "kaldi_scale": (encoded(THREE * 32768, "WAV", "FLOAT"), None, "samples far beyond 1"),
    "scale_of_8_bits": (encoded(THREE * 128, "WAV", "FLOAT"), None, "samples far beyond 1"),
    "nan": (encoded(np.where(np.arange(72_000) == 60_000, np.nan, THREE), "WAV", "FLOAT"), None, "NaN or infinite"),
    "infinite": (encoded(np.where(np.arange(72_000) == 9, np.inf, THREE), "WAV", "FLOAT"), None, "NaN or infinite"),
    "opposite": (encoded(np.stack([THREE, -THREE], 1), "WAV"), None, "channels that cancel each other"),
    "empty": (encoded(THREE[:0], "WAV"), None, "no samples"),
    "m4a": (b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(2000), None, "unreadable audio"),
}
"""Files whose header lies or that hold no sound: the seconds that are read of them (None: a fault), and the fault."""


def write(folder: Path, name: str) -> Path:
    """Write one of the files above into a folder and return its path."""
    data = (SOUND.get(name) or LYING[name])[0]
    kind = name.split("_")[0]
    path = folder / f"{name}.{kind if kind in ('mp3', 'ogg', 'opus', 'flac', 'm4a', 'aiff') else 'wav'}"
    path.write_bytes(data)
    return path


def apple_double() -> bytes:
    """Return what a Mac leaves as `._name` beside a file on a foreign disk."""
    return bytes.fromhex("00051607") + bytes(4092)


def make_pipe(path: Path) -> Path:
    """Make a named pipe, on which a reader waits for ever."""
    os.mkfifo(path)
    return path
