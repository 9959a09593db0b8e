import json

import pytest

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest, read_trials
from metis_lightning.errors import UserError


def test_starter_manifest():
    utterances = read_manifest(STARTER_ROOT / "starter.jsonl")
    assert len(utterances) == 1882
    assert len({u.speaker for u in utterances}) == 49
    assert sum(u.seconds for u in utterances) / 3600 == pytest.approx(2.03, abs=0.005)
    assert {u.language for u in utterances} == {"en", "fr", "it", "ru"}
    assert all(u.path.is_file() for u in utterances)


def test_fields_are_read_and_the_region_dropped(tmp_path, row, write_manifest):
    (utterance,) = read_manifest(write_manifest(tmp_path / "m.jsonl", [row("ada", 1)]))
    assert utterance.path == tmp_path.resolve() / "audio" / "ada_1.wav"
    assert (utterance.language, utterance.seconds, utterance.sample_rate) == ("en", 1.5, 24_000)
    assert (utterance.source, utterance.license) == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "/etc/passwd"}, "relative"),
        ({"path": "C:/a.wav"}, "relative"),
        ({"path": "audio/../../secret.wav"}, "relative"),
        ({"path": "audio\\..\\secret.wav"}, "relative"),
        ({"path": ""}, "relative"),
        ({"id": ".hidden"}, "id '.hidden'"),
        ({"id": "a/b"}, "id 'a/b'"),
        ({"id": "ada_1\n"}, "id"),
        ({"id": ""}, "id ''"),
        ({"speaker": "../x"}, "speaker"),
        ({"id": 3}, "must be a string"),
        ({"text": None}, "'text' must be a string"),
        ({"seconds": 0}, "must be positive"),
        ({"seconds": float("nan")}, "finite"),
        ({"seconds": True}, "finite"),
        ({"sample_rate": "24k"}, "finite"),
    ],
)
def test_mistakes_are_named_by_file_and_line(tmp_path, row, write_manifest, changes, message):
    path = write_manifest(tmp_path / "m.jsonl", [row("ada", 0), row("ada", 1, **changes)])
    with pytest.raises(UserError, match=message) as error:
        read_manifest(path)
    assert f"{path}:2: " in str(error.value)


def test_duplicates_and_broken_lines(tmp_path, row, write_manifest):
    path = write_manifest(tmp_path / "m.jsonl", [row("ada", 0), row("bob", 0), row("ada", 0)])
    with pytest.raises(UserError, match=r"m\.jsonl:3: id 'ada_0' occurs already at .*m\.jsonl:1"):
        read_manifest(path)
    path.write_text("\n{not json\n")
    with pytest.raises(UserError, match=r"m\.jsonl:2: not JSON"):
        read_manifest(path)
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="expected a JSON object, found list"):
        read_manifest(path)
    with pytest.raises(UserError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")


def test_trials_are_checked(tmp_path):
    trial = {"id": "t0", "test_set": "s", "target": "a", "interferer": "b", "enrollment": "c", "snr_db": -2.5}
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(trial))
    assert read_trials(path)[0].snr_db == -2.5
    path.write_text(json.dumps({**trial, "snr_db": None}))
    with pytest.raises(UserError, match="'snr_db' must be a finite number"):
        read_trials(path)
