"""A voice that is kept in a file: the same result as its prompt gives, and none by other codecs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from every_task import Run, voice
from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis, Voice
from metis_lightning.types import HOP

FAST = {"num_steps": 2, "stage2_steps": (2, 1, 1)}


@pytest.fixture(scope="module")
def metis(tiny_bundle: Path) -> Metis:
    return Metis.from_pretrained(str(tiny_bundle))


def sound(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(voice(seconds, seed=seed)).float()


def test_a_saved_voice_gives_what_its_prompt_gives(metis: Metis, tmp_path: Path) -> None:
    prompt, mixture = sound(1.01), sound(1.5, seed=1)
    metis.voice(prompt, "I said that.", "en").save(tmp_path / "me.safetensors")
    kept = Voice.load(tmp_path / "me.safetensors")
    assert (kept.text, kept.language, len(kept)) == ("I said that.", "en", len(prompt) // HOP * HOP)
    assert kept.ssl_tokens.shape == kept.acoustic_tokens.shape[:1] and len(kept.ssl_tokens) > 40
    by_prompt, by_voice = (metis.extract(mixture, heard, 3, **FAST) for heard in (prompt, kept))
    assert torch.equal(by_prompt.wave, by_voice.wave)


def test_its_prompt_is_not_encoded_again(metis: Metis, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, encoded = metis.voice(sound(1.0)), []
    original = metis.tokenizer.acoustic_tokens
    monkeypatch.setattr(metis.tokenizer, "acoustic_tokens", lambda *args: encoded.append(args) or original(*args))
    metis.extract(sound(1.0, seed=1), kept, **FAST)
    assert encoded == []
    metis.extract(sound(1.0, seed=1), sound(1.0), **FAST)
    assert len(encoded) == 1


def test_a_voice_of_other_codecs_is_refused(metis: Metis) -> None:
    other = replace(metis.voice(sound(1.0)), codecs="0" * 64)
    with pytest.raises(UserError, match="encoded by another bundle's codecs"):
        metis.extract(sound(1.0, seed=1), other, **FAST)


@pytest.mark.parametrize("kind", ["text", "tensors", "half"])
def test_what_is_no_voice_is_the_users_mistake(metis: Metis, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "me.safetensors"
    if kind == "text":
        path.write_text("me")
    elif kind == "tensors":
        save_file({"wave": torch.zeros(480)}, path)
    else:
        whole = metis.voice(sound(1.0))
        replace(whole, ssl_tokens=whole.ssl_tokens[1:]).save(path)
    with pytest.raises(UserError, match="voice"):
        Voice.load(path)


def test_generate_saves_a_voice_and_takes_it(generate: Run, folder: Path) -> None:
    said = ("--task", "omni", "--text", "Say this.")
    first = generate(
        *said, "--prompt", "me.wav", "--prompt-text", "I said it.", "--save-voice", "v.safetensors", "--out", "a.wav"
    )
    # What the prompt says is in the voice.
    second = generate(*said, "--voice", "v.safetensors", "--out", "b.wav")
    assert (first, second) == ((0, ""), (0, ""))
    assert (folder / "a.wav").read_bytes() == (folder / "b.wav").read_bytes()
    status, err = generate(*said, "--voice", "v.safetensors", "--prompt", "me.wav", "--out", "c.wav")
    assert status == 2 and "no --prompt beside it" in err
