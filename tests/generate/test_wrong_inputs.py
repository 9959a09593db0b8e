"""Wrong inputs: one clear line, status 2, and no output file."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from every_task import LIP_DIM, Run, write_voice
from metis_lightning.data.media.mouths import NoFaceError
from metis_lightning.data.media.video import write_video
from metis_lightning.generate.main import INDEX

RATE = 24_000
MIX, ME = ("--source", "mix.wav"), ("--prompt", "me.wav")
SAID = (*ME, "--prompt-text", "I said that.", "--text", "Say this.")


@pytest.fixture
def sounds(folder: Path) -> Path:
    write_voice(folder / "short.wav", 0.05)
    write_voice(folder / "tiny.wav", 0.05)
    soundfile.write(folder / "long.wav", np.tile(np.float32([0.1, -0.1]), 300 * 16_000), 16_000)
    soundfile.write(folder / "silent.wav", np.full(RATE, 0.1), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE)
    (folder / "text.wav").write_text("no sound")
    (folder / "empty").mkdir()
    np.save(folder / "wide.npy", np.zeros((25, LIP_DIM + 1), dtype=np.float32))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "hour.npy", np.zeros((25 * 61, LIP_DIM), dtype=np.float32))
    return folder


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "missing prompt": (("tse", *MIX), "the task tse needs a prompt (--prompt)"),
    "missing source": (("se",), "the task se needs a source (--source)"),
    "a misspelt task": (("tsee",), "did you mean 'tse'?"),
    "missing text": (("tts", *ME, "--prompt-text", "I said."), "the task tts needs a text (--text)"),
    "missing prompt text": (("tts", *ME, "--text", "Hi"), "needs a prompt text (--prompt-text)"),
    "one text of two": (("tse", *MIX, *ME, "--text", "Hi"), "the prompt text (--prompt-text) is missing"),
    "missing lips": (("l2s", *ME), "needs a video (--video) or features (--features)"),
    "an input of another task": (("se", *MIX, *ME), "the task se takes no prompt; it takes source"),
    "no such file": (("se", "--source", "no.wav"), "no.wav: no such file; check the path of the source (--source)"),
    "50 ms prompt": (
        ("tse", *MIX, "--prompt", "short.wav"),
        "the prompt short.wav lasts 0.05 s; give at least 0.1 s; 3 to 10 s are better",
    ),
    "10-minute prompt": (
        ("vc", *MIX, "--prompt", "long.wav"),
        "the prompt long.wav lasts 600.0 s; the longest prompt is 30 s, as long as the speech that the models were "
        "trained on: cut out 3 to 10 s of the wanted voice",
    ),
    "silent prompt": (("tse", *MIX, "--prompt", "silent.wav"), "the prompt silent.wav is silent; check the recording"),
    "silent source": (("se", "--source", "silent.wav"), "the source silent.wav is silent; check the recording"),
    "50 ms source": (("se", "--source", "short.wav"), "the source short.wav lasts 0.05 s; give at least 0.1 s"),
    "samples that are no numbers": (("se", "--source", "nan.wav"), "nan.wav: NaN or infinite samples"),
    "an empty file": (("se", "--source", "empty.wav"), "empty.wav: no samples"),
    "a text as sound": (("se", "--source", "text.wav"), "text.wav: not a readable audio file"),
    "an empty folder": (("se", "--source", "empty", "--out", "made"), "empty: no file that ends with .aif"),
    "an unsupported script": (
        (*("tts", *SAID)[:-1], "สวัสดี"),
        "--text: the letter 'ส' (Thai) is not one that 'en' is written in; name the text's language, one of en, zh",
    ),
    "another script than the language's": (
        (*("tts", *SAID), "--language", "ru", "--prompt-language", "ko", "--prompt-text", "привет"),
        "--prompt-text: the letter 'п' (Cyrillic) is not one that 'ko' is written in",
    ),
    "an unsupported language": (
        ("tts", *SAID, "--language", "th"),
        "--text: the language 'th' is not one of these weights'; they read en, zh, de, fr, ja, ko, it, ru",
    ),
    "a text without words": ((*("tts", *SAID)[:-1], "…!"), "--text: nothing can be spoken of '…!'; give words"),
    "a text that is not UTF-8": (
        (*("tts", *SAID)[:-1], "good \udce9"),
        "the text (--text) is not UTF-8; write it anew",
    ),
    "a language that is not UTF-8": (("tts", *SAID, "--language", "\udce9"), "the language (--language) is not UTF-8"),
    "a text in a minute": (("tts", *SAID, "--seconds", "83.2"), "the result would last 83.2 s; the longest is 60 s"),
    "a result of no time": (("tts", *SAID, "--seconds", "0"), "--seconds: must be more than 0, not 0.0"),
    "features of another width": (
        ("l2s", *ME, "--features", "wide.npy"),
        "take conditions 6 wide; this condition is 7",
    ),
    "features that run code": (
        ("l2s", *ME, "--features", "objects.npy"),
        "objects.npy: not one array of plain numbers",
    ),
    "a minute of lips": (("l2s", *ME, "--features", "hour.npy"), "the result would last 61.0 s; the longest is 60 s"),
    "an output of no format": (("se", *MIX, "--out", "out.mp3"), "--out out.mp3: end it with .wav or .flac"),
    "an output below a file": (
        ("se", *MIX, "--out", "me.wav/made.wav"),
        "me.wav/made.wav cannot be written: me.wav is a file",
    ),
    "a page below a file": (
        ("se", *MIX, "--play-list", "me.wav/x.html"),
        "--play-list me.wav/x.html cannot be written",
    ),
    "a folder of sources that is not there": (
        ("se", "--source", "nowhere", "--out", "made"),
        "nowhere: no such file; check the path of the source (--source)",
    ),
    "a page that is none": (("se", *MIX, "--play-list", "mix.wav"), "--play-list mix.wav: end it with .html"),
    "an output over an input": (("se", *MIX, "--out", "mix.wav"), "--out mix.wav would overwrite an input"),
    "an output in the folder": (("se", "--source", ".", "--out", "./out"), "--out out lies in the folder of --source"),
    "steps": (("se", *MIX, "--num-steps", "0"), "must be at least 1, not 0"),
    "guidance": (("se", *MIX, "--guidance-scale", "nan"), "--guidance-scale: must be a number, not nan"),
    "a chunk as long as its overlap": (("se", *MIX, "--chunk-seconds", "2"), "must be at least 8, not 2"),
    "a vocabulary of phones for others": (
        ("tts", *SAID, "--phone-vocabulary", "mix.wav"),
        "--phone-vocabulary mix.wav is for the released weights; these learnt the front end 'utf8': leave it out",
    ),
}


def files_of(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("args", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs_end_with_one_line_and_no_file(
    generate: Run, sounds: Path, args: tuple[str, ...], message: str
) -> None:
    before = files_of(sounds)
    task, *rest = args
    out = () if "--out" in rest else ("--out", "made.wav")
    status, err = generate("--task", task, *rest, *out)
    lines = err.splitlines()
    assert (status, len(lines)) == (2, 1), err
    assert lines[0].startswith("metis-lightning: error: ")
    assert message in lines[0]
    assert files_of(sounds) == before


LISTS: dict[str, tuple[str, str]] = {
    "an id that leaves the folder": ("id,source\n../a,mix.wav\n", "jobs.csv:2: id '../a' may hold only"),
    "a hidden id": ("id,source\n.a,mix.wav\n", "jobs.csv:2: id '.a' may hold only"),
    "no id": ("source\nmix.wav\n", "jobs.csv:2: id '' may hold only"),
    "a long id": (f"id,source\n{'a' * 201},mix.wav\n", "jobs.csv:2: the id is longer than 200 characters"),
    "an id twice": ("id,source\na,mix.wav\nA,mix.wav\n", "jobs.csv:3: id 'A' occurs already at jobs.csv:2"),
    "an unknown column": ("id,sauce\na,mix.wav\n", "jobs.csv:2: unknown column 'sauce'; the columns are id, source"),
    "a missing input": ("id,source\na,mix.wav\nb,\n", "jobs.csv:3: the task se needs a source (--source)"),
    "a missing file": ("id,source\na,no.wav\n", "jobs.csv:2: no.wav: no such file"),
    "too many values": ("id,source\na,mix.wav,b\n", "jobs.csv:2: more values than columns"),
    "a wrong seed": ("id,source,seed\na,mix.wav,-1\n", "jobs.csv:2: seed '-1': give a whole number from 0 on"),
    "no lines": ("id,source\n", "jobs.csv: the list is empty"),
    "an output over an input": ("id,source\nmix,made/../mix.wav\n", "jobs.csv:2: made/../mix.wav: no such file"),
}


@pytest.mark.parametrize(("text", "message"), LISTS.values(), ids=LISTS)
def test_wrong_lists_end_before_anything_is_made(generate: Run, folder: Path, text: str, message: str) -> None:
    (folder / "jobs.csv").write_text(text)
    status, err = generate("--task", "se", "--list", "jobs.csv", "--out", "made")
    assert (status, len(err.splitlines())) == (2, 1), err
    assert message in err
    assert not (folder / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "jobs.jsonl:1: expected a JSON object, found list"),
        (b'{"id": ', "jobs.jsonl:1: not JSON"),
        (b'{"id": "a", "source": ["mix.wav"]}', "jobs.jsonl:1: source must be a text or a number"),
        (b'{"id": "a", "source": "a\\u0000b"}', "jobs.jsonl:1: source must be a text or a number"),
        (b"[" * 100_000, "jobs.jsonl:1: not JSON"),
    ],
)
def test_wrong_jsonl(generate: Run, folder: Path, content: bytes, message: str) -> None:
    (folder / "jobs.jsonl").write_bytes(content)
    status, err = generate("--task", "se", "--list", "jobs.jsonl", "--out", "made")
    assert (status, len(err.splitlines())) == (2, 1), err
    assert message in err


def test_two_results_of_one_name(generate: Run, folder: Path) -> None:
    write_voice(folder / "in/a.wav", 1.0)
    write_voice(folder / "in/a.flac", 1.0)
    status, err = generate("--task", "se", "--source", "in", "--out", "made")
    assert status == 2
    assert "in/a.flac and in/a.wav would be written to one file, made/a.wav; rename one of them" in err


def test_a_strange_index_is_not_taken_for_one(generate: Run, folder: Path) -> None:
    write_voice(folder / "in/a.wav", 1.0)
    (folder / "made").mkdir()
    (folder / "made" / INDEX).write_text('{"mine": 1}\n')
    status, err = generate("--task", "se", "--source", "in", "--out", "made")
    assert (status, (folder / "made" / INDEX).read_text()) == (2, '{"mine": 1}\n')
    assert f"made/{INDEX}: not an index of generated files" in err


class Attack:
    """What a stranger's checkpoint may hold: loading it with pickle makes a folder."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("kind", ["torch", "pickle", "protocol 0"])
def test_a_pickle_posing_as_a_checkpoint(generate: Run, folder: Path, kind: str) -> None:
    content = {"state_dict": {}, "bundle_parts": Attack()}
    if kind == "torch":
        torch.save(content, folder / "evil.ckpt")
    else:
        (folder / "evil.ckpt").write_bytes(pickle.dumps(content, protocol=0 if kind == "protocol 0" else 4))
    status, err = generate("--task", "se", *MIX, "--out", "made.wav", model="evil.ckpt")
    assert (status, len(err.splitlines())) == (2, 1), err
    reason = "is refused: it holds more than tensors" if kind == "torch" else "is damaged or not a checkpoint"
    assert f"checkpoint evil.ckpt {reason}" in err
    assert not (folder / "attacked").exists() and not (folder / "made.wav").exists()


def test_a_bundle_with_a_changed_byte(generate: Run, folder: Path, every_task: Path) -> None:
    """In any file of weights, at its start, in its middle and at its end."""
    for part in sorted(every_task.glob("*.safetensors")):
        if part.stem in ("tse", "l2s", "stage1"):
            continue  # not read for this task
        for place in (0, 1 / 2, 1):
            shutil.rmtree(folder / "changed", ignore_errors=True)
            shutil.copytree(every_task, folder / "changed")
            content = bytearray(part.read_bytes())
            content[int(place * (len(content) - 1))] ^= 1
            (folder / "changed" / part.name).write_bytes(content)
            status, err = generate("--task", "se", *MIX, "--out", "made.wav", model="changed")
            assert (status, len(err.splitlines())) == (2, 1), err
            assert f"changed/{part.name}: its SHA-256 is" in err
            assert not (folder / "made.wav").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(generate: Run, folder: Path) -> None:
    status, err = generate("--task", "se", *MIX, "--out", "made.wav", "--device", "cuda")
    assert (status, "PyTorch finds no GPU here" in err) == (2, True)


def test_a_task_that_the_weights_lack(generate: Run, folder: Path) -> None:
    status, err = generate("--task", "lullaby", *MIX, "--out", "made.wav", model="nano")
    assert status == 2
    assert "bundle 'nano': it has no weights for the task 'lullaby', only for omni, tts, vc, tse, se, l2s" in err


# --- video ----------------------------------------------------------------------------------------------------------


def test_video_needs_its_encoder(generate: Run, folder: Path) -> None:
    (folder / "talk.mp4").write_bytes(b"a video")
    status, err = generate("--task", "l2s", *ME, "--video", "talk.mp4", "--out", "made.wav")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "give Auto-AVSR's weights as --visual-encoder, or its lip features as --features" in err


def test_what_is_no_video(generate: Run, folder: Path) -> None:
    (folder / "talk.mp4").write_bytes(b"a video")
    args = ("--task", "l2s", *ME, "--video", "talk.mp4", "--visual-encoder", "vsr.pth", "--out", "made.wav")
    status, err = generate(*args)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "talk.mp4" in err
    assert not (folder / "made.wav").exists()


def test_a_video_without_a_face(generate: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finder of faces, which needs the extra `lips`, sees none in a video of a wall."""
    write_video(folder / "wall.mp4", [np.full((120, 160, 3), 90, dtype=np.uint8)] * 10)

    def no_face(video: Path) -> Iterator[np.ndarray]:
        raise NoFaceError(f"{video}: a face is seen in 0 of 10 pictures; give a video that shows a face")

    monkeypatch.setattr("metis_lightning.tokens.visual.lip_features.crop_mouths", no_face)
    args = ("--task", "l2s", *ME, "--video", "wall.mp4", "--visual-encoder", "vsr.pth", "--out", "made.wav")
    status, err = generate(*args)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "wall.mp4: a face is seen in 0 of 10 pictures" in err
    assert not (folder / "made.wav").exists()


def test_mistakes_are_found_without_torch(folder: Path) -> None:
    """`generate --help` and options that do not parse answer at once."""
    code = (
        "import sys; from metis_lightning.cli.main import main\n"
        "try: main(['generate', '--help'])\nexcept SystemExit: pass\n"
        "assert main(['generate', '--task', 'x']) == 2\n"
        "sys.exit(len({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--guidance-scale" in done.stdout
