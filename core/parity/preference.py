"""Which of two answers is preferred, by a judge model or by people: wins, ties, losses, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal

from core import confidence_interval
from core.evaluation.scoring import Interval
from core.message import from_json, msg, to_json

Preferred = Literal["old", "new", "tie"]
PreferenceOutcome = Literal["better", "as_good", "worse", "undecided"]


@dataclass(frozen=True, slots=True)
class PreferenceVerdict:
    """How often each model's answer was preferred.

    Attributes:
        wins, ties, losses: rows in which the new model's answer was preferred, neither, or the old one's.
        difference: share of wins minus share of losses, -1 to 1.
        sentence: the verdict in words.
    """

    wins: int
    ties: int
    losses: int
    difference: Interval
    outcome: PreferenceOutcome
    sentence: str

    @property
    def n(self) -> int:
        """The number of rows that were judged."""
        return self.wins + self.ties + self.losses

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return asdict(self) | {"sentence": to_json(self.sentence)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PreferenceVerdict:
        """The inverse of `to_dict`."""
        difference, sentence = Interval(**data["difference"]), from_json(data["sentence"]) or ""
        return cls(**{**data, "difference": difference, "sentence": sentence})


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """What a judge model decided.

    Attributes:
        instructions: what it was asked, see `core.evaluation.judge_rows` for the rest.
        preference: None if no row got two readable verdicts.
        unparsable: replies that are not a verdict (prose, a refusal, cut off); their rows do not count.
        missing: requests without a reply.
        identical: rows with equal answers: ties, for which the judge was not asked.
        disagreeing: rows whose verdict changed with the order; they count as ties.
        first: share of verdicts for the answer that was shown first, without ties: 50 % without position bias.
        own_answers: the judge is one of the two models, and models tend to prefer their own answers.
    """

    provider: str
    model: str
    instructions: str
    preference: PreferenceVerdict | None
    unparsable: int
    missing: int
    disagreeing: int
    identical: int
    first: Interval | None
    own_answers: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return asdict(self) | {"preference": None if self.preference is None else self.preference.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JudgeResult:
        """The inverse of `to_dict`."""
        values = dict(data)
        values["preference"] = None if data["preference"] is None else PreferenceVerdict.from_dict(data["preference"])
        values["first"] = None if data["first"] is None else Interval(**data["first"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class VoteResult:
    """Blind votes of people. A row counts once: its votes are summed, so that several people can vote on it.

    Attributes:
        people, votes: how many there are.
        preference: None if there are no votes.
    """

    people: int
    votes: int
    preference: PreferenceVerdict | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return asdict(self) | {"preference": None if self.preference is None else self.preference.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VoteResult:
        """The inverse of `to_dict`."""
        found = data["preference"]
        return cls(**{**data, "preference": None if found is None else PreferenceVerdict.from_dict(found)})


def decide(choices: Sequence[Preferred], margin: float) -> PreferenceVerdict | None:
    """The verdict on rows of which each has one choice; None if there are none. `margin`: the accepted loss, 0 to 1.

    Tango's interval for the difference of the shares of wins and losses; as good means that it lies above `-margin`.
    """
    n, wins, losses = len(choices), choices.count("new"), choices.count("old")
    if not n:
        return None
    low, high = confidence_interval.paired_difference(wins, losses, n)
    difference = Interval((wins - losses) / n, low, high, n)
    won, lost, tied, rows = f"{wins:,}", f"{losses:,}", f"{n - wins - losses:,}", f"{n:,}"
    outcome: PreferenceOutcome
    if low > 0:
        outcome = "better"
        said = msg(
            "The new model is preferred: {wins} of {n} rows won, {ties} ties, {losses} lost.",
            wins=won,
            n=rows,
            ties=tied,
            losses=lost,
        )
    elif high < 0:
        outcome = "worse"
        said = msg(
            "The old model is preferred: {losses} of {n} rows lost, {ties} ties, {wins} won.",
            losses=lost,
            n=rows,
            ties=tied,
            wins=won,
        )
    elif low >= -margin:
        outcome = "as_good"
        said = msg(
            "As good within {points} points: {wins} of {n} rows won, {ties} ties, {losses} lost.",
            points=max(1, ceil(-100 * low)),
            wins=won,
            n=rows,
            ties=tied,
            losses=lost,
        )
    else:
        outcome = "undecided"
        said = msg(
            "Not decided: {wins} of {n} rows won, {ties} ties, {losses} lost. Judge more rows.",
            wins=won,
            n=rows,
            ties=tied,
            losses=lost,
        )
    return PreferenceVerdict(wins, n - wins - losses, losses, difference, outcome, said)
