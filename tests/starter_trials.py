"""The rule by which the starter corpus's test list for target speaker extraction was made.

Every choice is the smallest of a set by SHA-256, so that the list depends on no library's random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.corpora.starter_tests import MIN_ENROLLMENT_SECONDS, STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.manifest.test_sets import hash_order
from metis_lightning.data.recipes.prompts import same_words
from metis_lightning.types import Trial, Utterance

SNRS_DB = (-5.0, -2.5, 0.0, 2.5, 5.0)
"""SNRs of the test mixtures in dB, equally often."""

# Most human targets are English, whose words the recognisers know.
_HUMAN = "allison june allison carlo allison ivrvoice allison allison"
_UNSEEN = "af-bella am-michael bf-emma bm-george if-sara hm-omega"


@dataclass(frozen=True)
class TrialPlan:
    """What a test set should hold.

    test_set: its name, which is also the split that all utterances come from.
    speakers: target speakers in the order of the list, repeated until it is full. A length that shares no factor with
        the five SNRs lets every speaker meet every SNR equally often.
    count: number of trials.
    """

    test_set: str
    speakers: tuple[str, ...]
    count: int = 60


PLANS = (TrialPlan("test-human", tuple(_HUMAN.split())), TrialPlan("test-unseen", tuple(_UNSEEN.split())))


def read_speaker_sex(manifest: Path) -> dict[str, str]:
    """Map each speaker of the starter corpus to its `sex` field."""
    rows = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
    return {row["speaker"]: row["sex"] for row in rows if row.get("sex")}


def make_starter_trials() -> list[Trial]:
    """Make the content of the committed test list anew."""
    manifest = STARTER_ROOT / "starter.jsonl"
    utterances, sex = read_manifest(manifest), read_speaker_sex(manifest)
    return [trial for plan in PLANS for trial in make_trials(utterances, sex, plan)]


def make_trials(utterances: Sequence[Utterance], sex: Mapping[str, str], plan: TrialPlan) -> list[Trial]:
    """Make the list of a test set; the same arguments give the same list.

    SNRs rotate, so that each occurs equally often and the first few trials have all. A speaker's interferers are in
    turn of the same and of the other sex. Interferer and enrollment never say the target's words. The interferer is
    at least as long as the target where that voice has such an utterance.

    Args:
        utterances: the corpus; those of other splits are ignored.
        sex: of each speaker, as any label.
        plan: what to make.

    Raises:
        ValueError: if a planned speaker is missing, has one utterance only, stands alone in the split, or meets a voice
            that says nothing but the target's words.
    """
    voices = _by_speaker(utterances, plan.test_set)
    if missing := set(plan.speakers) - set(voices):
        raise ValueError(f"no utterance in split {plan.test_set!r} of speakers {sorted(missing)}")
    used = dict.fromkeys(plan.speakers, 0)
    trials = []
    for number in range(plan.count):
        speaker = plan.speakers[number % len(plan.speakers)]
        turn, used[speaker] = used[speaker], used[speaker] + 1
        trial_id = f"{plan.test_set}_{number:03d}"
        target = _targets(voices[speaker], plan.test_set)[turn % len(voices[speaker])]
        interferer = _interferer(trial_id, target, voices[_other_voice(speaker, turn, voices, sex)])
        trials.append(
            Trial(
                id=trial_id,
                test_set=plan.test_set,
                target=target.id,
                interferer=interferer.id,
                enrollment=_enrollment(trial_id, target, voices[speaker]).id,
                snr_db=SNRS_DB[number % len(SNRS_DB)],
            )
        )
    return trials


def _by_speaker(utterances: Sequence[Utterance], split: str) -> dict[str, list[Utterance]]:
    voices: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.split == split:
            voices.setdefault(utterance.speaker, []).append(utterance)
    return voices


def _targets(voice: list[Utterance], salt: str) -> list[Utterance]:
    """Order a voice's utterances as targets: any order, but the long before the short, which carry few words."""
    return sorted(voice, key=lambda u: (u.seconds < MIN_ENROLLMENT_SECONDS, _order(salt, "target", u.id)))


def _other_voice(speaker: str, turn: int, voices: Mapping[str, object], sex: Mapping[str, str]) -> str:
    """Return the interfering speaker of a speaker's trial number `turn`: same sex, other sex, same, ..."""
    others = sorted(voice for voice in voices if voice != speaker)
    same = [voice for voice in others if sex[voice] == sex[speaker]]
    different = [voice for voice in others if sex[voice] != sex[speaker]]
    pool = (same, different)[turn % 2] or others
    if not pool:
        raise ValueError(f"no other speaker than {speaker!r} in this split")
    return pool[turn // 2 % len(pool)]


def _interferer(salt: str, target: Utterance, voice: list[Utterance]) -> Utterance:
    other_words = [u for u in voice if not same_words(u.text, target.text)]
    long_enough = [u for u in other_words if u.seconds >= target.seconds]
    if long_enough:
        return min(long_enough, key=lambda u: _order(salt, "interferer", u.id))
    if not other_words:
        raise ValueError(f"speaker {voice[0].speaker!r} says nothing but the words of {target.id!r}")
    return max(other_words, key=lambda u: (u.seconds, u.id))


def _enrollment(salt: str, target: Utterance, voice: list[Utterance]) -> Utterance:
    others = [u for u in voice if u.id != target.id and not same_words(u.text, target.text)]
    if not others:
        raise ValueError(f"speaker {target.speaker!r} has no utterance but {target.id!r} to enrol with")
    long_enough = [u for u in others if u.seconds >= MIN_ENROLLMENT_SECONDS]
    return min(long_enough or others, key=lambda u: _order(salt, "enrollment", u.id))


def _order(*parts: str) -> str:
    return hash_order(*parts, separator="\0")
