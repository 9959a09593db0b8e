"""Measures what the tokens of each layer of Whisper's encoder hold and withstand: by this the front end was chosen.

    python experiments/nano/layers.py --cache runs/nano/packages --codes 1024

Tokens are k-means classes of a layer's hidden states, fitted on 220 utterances of the starter corpus's train split.
The table has, for each layer: the entropy of the tokens and the share that repeat their neighbour; the share that
stay the same when 24 utterances of unseen voices are made quieter or louder, shifted by a quarter of a frame, or
mixed with white noise or another voice; how often a sentence is found among 30 in another voice by the edit distance
of its tokens, with the mean distances of the same and of other sentences; and how well a linear map tells 37 voices
apart from an utterance's mean token vector.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import soundfile
import soxr
import torch
from ctranslate2_weights import whisper_encoder
from front_end import fetch
from torch import Tensor

from metis_lightning.tokens.whisper import WhisperFeatures
from metis_lightning.weights.tensor_file import from_rows, in_groups, in_rows

STARTER = Path(__file__).resolve().parents[2] / "src/metis_lightning/assets/starter"
LAYERS = range(2, 7)


class AllLayers:
    """Hidden states of every layer of one wave at a time."""

    def __init__(self, model: Path) -> None:
        self.features = WhisperFeatures(max(LAYERS)).eval().requires_grad_(False)
        self.features.load_state_dict(whisper_encoder(model, max(LAYERS)), strict=False)
        self.states: dict[int, Tensor] = {}
        for number, layer in enumerate(self.features.layers, start=1):
            layer.register_forward_hook(lambda _m, _i, output, number=number: self.states.update({number: output[0]}))

    def __call__(self, wave: Tensor) -> dict[int, Tensor]:
        self.features.unnormalised(wave[None])
        return {layer: self.states[layer].half() for layer in LAYERS}


def read(row: dict) -> Tensor:
    """Return the samples (S,) of an utterance at 16 kHz."""
    wave, rate = soundfile.read(STARTER / row["path"], dtype="float32")
    return torch.from_numpy(soxr.resample(wave, rate, 16_000))


def changed(wave: Tensor, other: Tensor, seed: int) -> dict[str, Tensor]:
    """Return the wave (S,) under each of the disturbances, by its column's name."""
    noise = torch.randn(len(wave), generator=torch.Generator().manual_seed(seed)) * wave.square().mean().sqrt()
    voice = other.repeat(len(wave) // len(other) + 1)[: len(wave)]
    voice = voice * (wave.square().mean() / voice.square().mean()).sqrt()
    return {
        "-12 dB": wave * 10 ** (-12 / 20),
        "+6 dB": wave * 2,
        "5 ms": torch.nn.functional.pad(wave, (80, 0))[: len(wave)],
        "noise 15 dB": wave + noise * 10 ** (-15 / 20),
        "noise 5 dB": wave + noise * 10 ** (-5 / 20),
        "voice 0 dB": wave + voice,
    }


def nearest(values: Tensor, codes: Tensor) -> Tensor:
    """Return the nearest codes (T,) of values (T, C)."""
    return (codes.square().sum(dim=1) - 2 * values @ codes.T).argmin(dim=1)


def k_means(values: Tensor, num_codes: int, iterations: int = 12) -> Tensor:
    """Return codes (K, C) fitted to values (T, C); a code that is nobody's nearest starts anew at a random value."""
    codes = values[torch.randperm(len(values))[:num_codes]].clone()
    for _ in range(iterations):
        chosen = nearest(values, codes)
        sums = torch.zeros_like(codes).index_add_(0, chosen, values)
        counts = torch.bincount(chosen, minlength=num_codes)[:, None]
        codes = torch.where(counts > 0, sums / counts.clamp(min=1), values[torch.randperm(len(values))[:num_codes]])
    return codes


def distance(first: list[int], second: list[int]) -> float:
    """Return the edit distance of two token sequences over the longer one's length."""
    row = list(range(len(second) + 1))
    for token in first:
        left, row[0] = row[0], row[0] + 1
        for place, other in enumerate(second, start=1):
            left, row[place] = row[place], min(left + (token != other), row[place] + 1, row[place - 1] + 1)
    return row[-1] / max(len(first), len(second))


def speaker_accuracy(means: Tensor, speakers: list[str]) -> float:
    """Return how often ridge regression, fitted on every other utterance, names the speaker of the others."""
    names = sorted(set(speakers))
    labels = torch.tensor([names.index(speaker) for speaker in speakers])
    means = means - means.mean(dim=0)
    targets = torch.nn.functional.one_hot(labels, len(names)).float()
    gram = means[::2].T @ means[::2] + 10 * torch.eye(means.shape[1])
    weights = torch.linalg.solve(gram, means[::2].T @ targets[::2])
    return float(((means[1::2] @ weights).argmax(dim=1) == labels[1::2]).float().mean())


def drawn_rows(draw: random.Random) -> tuple[list[dict], list[dict], list[dict]]:
    """Return the utterances that codes are fitted on, those that are tested, and all synthetic ones."""
    rows = [json.loads(line) for line in (STARTER / "starter.jsonl").read_text(encoding="utf-8").splitlines()]
    synthetic = [row for row in rows if row["source"] == "synthetic"]
    fitted = draw.sample([row for row in synthetic if row["split"] == "train"], 220)
    tested = draw.sample([row for row in synthetic if row["split"] == "test-unseen"], 24)
    return fitted, tested, synthetic


def changed_by_storage(model: Path, num_codes: int, layer: int) -> None:
    """Print the shares of tokens of a layer that another storage of its weights changes."""
    torch.manual_seed(0)
    fitted, tested, _ = drawn_rows(random.Random(0))
    encode = AllLayers(model)
    values = torch.cat([encode(read(row))[layer] for row in fitted]).float()
    mean, std = values.mean(dim=0), values.std(dim=0)
    codes = k_means((values - mean) / std, num_codes)

    def tokens() -> Tensor:
        states = torch.cat([encode(read(row))[layer] for row in tested]).float()
        return nearest((states - mean) / std, codes)

    whole, original = encode.features.state_dict(), tokens()
    for name, stored in {
        "4 bits": from_rows(in_groups(whole)),
        "int8 rows": from_rows(in_rows(whole)),
        "bfloat16": {key: value.bfloat16().float() for key, value in whole.items()},
    }.items():
        encode.features.load_state_dict(stored)
        print(f"layer {layer} in {name}: {float((tokens() != original).float().mean()):.2%} of the tokens changed")


def measure(model: Path, num_codes: int) -> None:
    """Print the table."""
    torch.manual_seed(0)
    draw = random.Random(0)
    encode = AllLayers(model)
    fitted, tested, synthetic = drawn_rows(draw)
    by_sentence = defaultdict(list)
    for row in synthetic:
        if row["split"] in ("train", "test-unseen"):
            by_sentence[row["sentence"]].append(row)
    pairs = draw.sample(
        [same[:2] for same in by_sentence.values() if len({row["speaker"] for row in same[:2]}) > 1], 30
    )

    states = [encode(read(row)) for row in fitted]
    clean = [encode(read(row)) for row in tested]
    disturbed = [
        {name: encode(wave) for name, wave in changed(read(row), read(tested[number - 7]), number).items()}
        for number, row in enumerate(tested)
    ]
    parallel = [[encode(read(row)) for row in pair] for pair in pairs]
    columns = ["layer", "entropy", "repeats", *disturbed[0], "found", "same", "other", "speaker"]
    print("|", " | ".join(columns), "|\n|" + "---|" * len(columns))
    for layer in LAYERS:
        values = torch.cat([state[layer] for state in states]).float()
        mean, std = values.mean(dim=0), values.std(dim=0)
        codes = k_means((values - mean) / std, num_codes)

        def tokens(state: dict[int, Tensor], layer: int = layer, known: tuple = (mean, std, codes)) -> Tensor:
            return nearest((state[layer].float() - known[0]) / known[1], known[2])

        chosen = [tokens(state) for state in states]
        shares = torch.bincount(torch.cat(chosen), minlength=num_codes) / sum(map(len, chosen))
        results = [float(torch.special.entr(shares).sum())]
        results += [float(torch.cat([row[1:] == row[:-1] for row in chosen]).float().mean())]
        for name in disturbed[0]:
            same = [(tokens(a) == tokens(b[name])).float().mean() for a, b in zip(clean, disturbed, strict=True)]
            results.append(float(torch.stack(same).mean()))
        first, second = ([torch.unique_consecutive(tokens(pair[i])).tolist() for pair in parallel] for i in (0, 1))
        distances = torch.tensor([[distance(a, b) for b in second] for a in first])
        own = distances.diagonal()
        others = distances[~torch.eye(len(own), dtype=torch.bool)]
        results += [float((distances.argmin(dim=1) == torch.arange(len(own))).float().mean())]
        results += [float(own.mean()), float(others.mean())]
        means = torch.stack([codes[row].mean(dim=0) for row in chosen])
        results.append(speaker_accuracy(means, [row["speaker"] for row in fitted]))
        print("|", layer, "|", " | ".join(f"{value:.2f}" for value in results), "|", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("runs/nano/packages"), help="where the packages are kept")
    parser.add_argument("--codes", type=int, default=1024)
    options = parser.parse_args()
    measure(fetch(options.cache), options.codes)
    changed_by_storage(fetch(options.cache), options.codes, layer=4)
