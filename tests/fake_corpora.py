"""Tiny corpora in the exact layouts of the real ones, with real audio: noise bursts of a few tenths of a second."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly


def voice(seconds: float, seed: int, rate: int = 16_000, level: float = 0.1) -> np.ndarray:
    """Noise (S,) with a slow swell, another for each seed."""
    samples = round(seconds * rate)
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * np.arange(samples) / rate)
    return level * swell * np.random.default_rng(seed).standard_normal(samples).clip(-3, 3)


def encoded(wave: np.ndarray, rate: int, kind: str = "WAV", **options: str) -> bytes:
    """The bytes of an audio file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, **options)
    return buffer.getvalue()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# --- Emilia ---------------------------------------------------------------------------------------------------------


def emilia_json(name: str, speaker: str, seconds: float, yodas: bool = False, **changes: object) -> bytes:
    fields: dict[str, object] = {
        ("_id" if yodas else "id"): name,
        "text": f" Words of {name}.",
        "duration": seconds,
        "speaker": speaker,
        "language": "en",
        "dnsmos": 3.3,
    }
    if yodas:
        fields["phone_count"] = 21
    else:
        fields["wav"] = f"EN_B00000/{speaker}/mp3/{name}.mp3"
    return json.dumps({**fields, **changes}).encode()


def emilia_members(
    speaker: str, numbers: range, seconds: float = 1.0, yodas: bool = False, **changes: object
) -> list[tuple[str, bytes]]:
    """Pairs of json and mp3, each pair apart: first all texts, then all audio in reverse."""
    names = [f"{speaker}_W{number:06d}" for number in numbers]
    texts = [(f"{n}.json", emilia_json(n, speaker, seconds, yodas, **changes)) for n in names]
    audio = [
        (f"{n}.mp3", encoded(voice(seconds, number, 24_000), 24_000, "MP3"))
        for n, number in zip(names, numbers, strict=True)
    ]
    return texts + audio[::-1]


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# --- LibriSpeech, WHAM!, LibriMix -----------------------------------------------------------------------------------

MIXTURES = (
    ("11-1-0000", "22-2-0000"),
    ("22-2-0001", "11-1-0001"),
    ("33-3-0000", "11-1-0000"),
    ("22-2-0000", "33-3-0001"),
)
LENGTHS = {"11-1-0000": 1.0, "11-1-0001": 0.8, "22-2-0000": 0.7, "22-2-0001": 1.3, "33-3-0000": 0.9, "33-3-0001": 1.1}


def gain(utterance: str) -> float:
    return 0.5 + 0.1 * int(utterance[-1]) + 0.2 * (utterance[0] == "2")


def librispeech(root: Path, subset: str = "test-clean") -> Path:
    for seed, (utterance, seconds) in enumerate(LENGTHS.items()):
        speaker, chapter, _ = utterance.split("-")
        folder = root / subset / speaker / chapter
        put(folder / f"{utterance}.flac", encoded(voice(seconds, seed), 16_000, "FLAC"))
        texts = folder / f"{speaker}-{chapter}.trans.txt"
        put(texts, (texts.read_text() if texts.exists() else "") + f"{utterance} WORDS OF {utterance}\n")
    return root


def wham(root: Path) -> Path:
    """Two-channel noises: one long, one that must be extended (0.6 s)."""
    for name, seconds in (("long", 3.0), ("short", 0.6)):
        stereo = np.stack([voice(seconds, 50), voice(seconds, 51)], axis=1)
        put(root / "tt" / f"{name}.wav", encoded(stereo, 16_000))
    return root


def generation_csv(path: Path) -> Path:
    """The published metadata of the four mixtures."""
    lines = ["mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain"]
    for number, pair in enumerate(MIXTURES):
        fields = ["_".join(pair)]
        for utterance in pair:
            fields += [f"test-clean/{'/'.join(utterance.split('-')[:2])}/{utterance}.flac", repr(gain(utterance))]
        lines.append(",".join([*fields, f"tt/{'long' if number % 2 else 'short'}.wav", "0.3"]))
    return put(path, "\n".join(lines) + "\n")


def extended(noise: np.ndarray, samples: int) -> np.ndarray:
    """A noise repeated with crossfades of half a Hann window of one second, as LibriMix's script does."""
    window = np.hanning(16_001)
    up, down = window[:8001], window[8000::-1]
    longer = noise
    while len(longer) < samples:
        seam = longer[len(longer) - 8001 :] * down + noise[:8001] * up
        longer = np.concatenate((longer[: len(longer) - 8001], seam, noise[8001:]))
    return longer[:samples]


def librimix(
    storage: Path, rate: int, mode: str, mixes: tuple[str, ...] = ("mix_clean", "mix_both", "mix_single")
) -> Path:
    """Mixtures on disk by LibriMix's rules, from what `librispeech`, `wham` and `generation_csv` wrote in `storage`."""
    root = storage / f"Libri2Mix/wav{rate // 1000}k/{mode}"
    tables: dict[str, list[str]] = {mix: [] for mix in mixes}
    with (storage / "libri2mix_test-clean.csv").open() as file:
        for line in csv.DictReader(file):
            sources = [soundfile.read(storage / "LibriSpeech" / line[f"source_{n}_path"])[0] for n in (1, 2)]
            longest = max(map(len, sources))
            noise = soundfile.read(storage / "wham_noise" / line["noise_path"])[0][:longest, 0]
            waves = [*sources, extended(noise, longest)]
            gains = [float(line[name]) for name in ("source_1_gain", "source_2_gain", "noise_gain")]
            waves = [resample_poly(wave * gain, rate, 16_000) for wave, gain in zip(waves, gains, strict=True)]
            size = (min if mode == "min" else max)(map(len, waves))
            waves = [np.pad(wave, (0, max(0, size - len(wave))))[:size] for wave in waves]
            name = f"{line['mixture_ID']}.wav"
            for folder, wave in zip(("s1", "s2", "noise"), waves, strict=True):
                put(root / "test" / folder / name, encoded(wave, rate))
            parts = {"mix_clean": waves[:2], "mix_both": waves, "mix_single": [waves[0], waves[2]]}
            for mix in mixes:
                put(root / "test" / mix / name, encoded(sum(parts[mix]), rate))
                folders = {"mix_clean": ("s1", "s2"), "mix_both": ("s1", "s2", "noise"), "mix_single": ("s1", "noise")}[
                    mix
                ]
                paths = [f"/made/elsewhere/wav/{mode}/test/{folder}/{name}" for folder in (mix, *folders)]
                tables[mix].append(",".join([line["mixture_ID"], *paths, f"{size}.0"]))
    headers = {
        "mix_clean": "mixture_ID,mixture_path,source_1_path,source_2_path,length",
        "mix_both": "mixture_ID,mixture_path,source_1_path,source_2_path,noise_path,length",
        "mix_single": "mixture_ID,mixture_path,source_1_path,noise_path,length",
    }
    for mix, lines in tables.items():
        put(root / "metadata" / f"mixture_test_{mix}.csv", "\n".join([headers[mix], *lines]) + "\n")
        put(root / "metadata" / f"metrics_test_{mix}.csv", "mixture_ID,source_1_SNR,source_2_SNR\n")
    return root


def librimix_storage(storage: Path) -> Path:
    librispeech(storage / "LibriSpeech")
    wham(storage / "wham_noise")
    generation_csv(storage / "libri2mix_test-clean.csv")
    return storage


# --- DNS Challenge --------------------------------------------------------------------------------------------------


def dns(root: Path) -> Path:
    """The repository: test sets, blind set, speech and noise."""
    for condition in ("no_reverb", "with_reverb"):
        for number, n in enumerate((0, 7, 300)):
            clean, noise = voice(0.5, number), voice(0.5, 90 + number, level=0.02)
            folder = root / "datasets/test_set/synthetic" / condition
            put(folder / f"noisy/clnsp{n}_3Wj-w0n_snr{n % 20}_tl-22_fileid_{n}.wav", encoded(clean + noise, 16_000))
            put(folder / f"clean/clean_fileid_{n}.wav", encoded(clean, 16_000))
    for name in ("audioset_realrec_car_3LLX", "ms_realrec_headset_a b"):
        put(root / f"datasets/test_set/real_recordings/{name}.wav", encoded(voice(0.4, 3), 16_000))
    for kind in ("noreverb", "reverb", "realrec"):
        put(root / f"datasets/blind_test_set/{kind}_fileid_2.wav", encoded(voice(0.4, 4), 16_000))
    for number in range(4):
        name = f"book_0000{number}_chp_0009_reader_0670{number % 2}_0.wav"
        put(root / "datasets/clean" / name, encoded(voice(0.8, 10 + number), 16_000))
    for number in range(2):
        put(root / f"datasets/noise/noise{number}.wav", encoded(voice(0.3, 20 + number), 16_000))
    put(root / "datasets/noise/Readme.md", "noise")
    return root
