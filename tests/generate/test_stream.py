"""A result in pieces: those of the whole, the first before the last is made, a text sentence by sentence."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from every_task import Run, voice
from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis, Request, Speech
from metis_lightning.sampling.long_audio import made_ahead, sentences, with_quiet_ends

RATE = 24_000
TEXT = "This is the first sentence. Here is another one, of more words! And a third?"


@pytest.fixture
def metis(every_task: Path, monkeypatch: pytest.MonkeyPatch) -> Metis:
    """A pipeline whose results are its sources, or tones as long as was asked; it notes what was asked."""
    loaded = Metis.from_pretrained(str(every_task), "omni")
    loaded.asked = []

    def generate(requests: list[Request], seeds: list[int], **options: object) -> list[Speech]:
        loaded.asked += requests
        waves = [torch.ones(request.length) if request.source is None else request.source for request in requests]
        return [Speech(wave, RATE, torch.zeros(0), torch.zeros(0)) for wave in waves]

    monkeypatch.setattr(loaded, "generate", generate)
    return loaded


def test_the_pieces_of_a_source_are_the_whole(metis: Metis) -> None:
    source = torch.from_numpy(voice(40)).float()
    pieces = list(metis.stream("se", source=source, chunk_seconds=10))
    assert len(pieces) > 4
    assert torch.allclose(torch.cat(pieces), source, atol=1e-4)
    in_blocks = list(metis.stream("se", source=iter(source.split(7000)), chunk_seconds=10))
    assert torch.equal(torch.cat(in_blocks), torch.cat(pieces))


def test_a_text_comes_sentence_by_sentence(metis: Metis) -> None:
    prompt = torch.from_numpy(voice(2.0)).float()
    pieces = metis.stream("tts", prompt, text=TEXT, prompt_text="I said that in two seconds.")
    first = next(pieces)
    # The first is there before the third is begun: at most the second is being made.
    assert len(metis.asked) <= 2
    rest = list(pieces)
    assert len(rest) == 2 and len({id(request.prompt) for request in metis.asked}) == 1
    shares = np.array([len(piece) for piece in (first, *rest)])
    assert shares / shares.sum() == pytest.approx([len(part) / 74 for part in sentences(TEXT, 99)], abs=0.02)
    assert all(float(piece[0].abs()) < 0.01 and float(piece[-1].abs()) < 0.01 for piece in (first, *rest))


def test_a_mistake_comes_out_of_the_stream(metis: Metis) -> None:
    with pytest.raises(UserError, match="nothing can be spoken of the text ''"):
        list(metis.stream("tts", text="Nobody says how fast."))


def test_the_next_piece_is_made_while_one_is_heard() -> None:
    begun = []

    def pieces() -> object:
        for number in range(3):
            begun.append(number)
            yield torch.tensor([number])

    heard = made_ahead(pieces())
    assert int(next(heard)) == 0
    for _ in range(100):
        if len(begun) == 2:
            break
        time.sleep(0.01)
    assert begun == [0, 1]
    assert [int(piece) for piece in heard] == [1, 2]


@pytest.mark.parametrize(
    ("text", "longest", "parts"),
    [
        ('He said "No." And then he left.', 99, ['He said "No."', "And then he left."]),
        ("你好，世界。今天天气很好！再见", 99, ["你好，世界。", "今天天气很好！再见"]),
        ("Yes. No. Maybe so. I think.", 99, ["Yes. No. Maybe so. I think."]),
        ("one two three four five", 9, ["one two", "three", "four five"]),
        ("abcdefghijklmnop", 5, ["abcde", "fghij", "klmno", "p"]),
        ("Ok.", 99, ["Ok."]),
    ],
)
def test_sentences(text: str, longest: int, parts: list[str]) -> None:
    assert sentences(text, longest) == parts
    assert all(len(part.encode()) <= longest for part in parts)


def test_quiet_ends_leave_the_middle() -> None:
    wave = with_quiet_ends(torch.ones(2400))
    assert torch.equal(wave[240:-240], torch.ones(1920)) and float(wave[0]) == float(wave[-1]) < 0.01


def test_generate_speaks_a_text_of_any_length(generate: Run, folder: Path) -> None:
    said = ("--prompt", "me.wav", "--prompt-text", "I said that and that.", "--text", "It is a long sentence. " * 40)
    assert generate("--task", "tts", *said, "--out", "long.wav") == (0, "")
    assert soundfile.info(folder / "long.wav").duration == pytest.approx(22 * 40 / 21, rel=0.01)


def test_samples_beyond_one_are_told_of(generate: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Metis.generate

    def loud(metis: Metis, *args: object, **options: object) -> list[Speech]:
        (speech,) = original(metis, *args, **options)
        return [Speech(speech.wave / speech.wave.abs().max() * 1.5, RATE, speech.ssl_tokens, speech.acoustic_tokens)]

    monkeypatch.setattr(Metis, "generate", loud)
    status, err = generate("--task", "se", "--source", "mix.wav", "--out", "out.wav")
    assert status == 0
    assert "out.wav: samples of up to 1.50 were cut to 1" in err
