"""The verdict of Tune or prompt, in a sentence. Pure.

"As good" is the parity card's test of non-inferiority (`core.parity.verdict`). Several numbers of examples are compared
at once, so their intervals hold together with 95 % confidence (Bonferroni): trying more prompts does not make one look
good by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import Literal

from core.evaluation.scoring import Interval
from core.message import msg, percent, sentences
from core.parity import verdict
from core.parity.prompt_variants import Measured, TrainingCosts, Variant
from core.parity.row_scores import Task

Outcome = Literal["prompt", "tune_to_save", "tune", "worse_part", "undecided", "unanswered", "baseline"]
"""`prompt`: do not tune; `tune_to_save`: as good, but tuning pays for itself within a year; `worse_part`: as good in
total, but not at one label; `baseline`: there is no tuned model yet.
"""
Decision = tuple[Outcome, Variant | None, str]
"""The outcome, the variant that the sentence is about, and the sentence."""

_ANSWERED = 0.9  # of the rows; with fewer answers, those rows that were answered say too little
_USABLE_SCORE = 0.5  # below it, a model is wrong more often than right
_LITTLE_TO_GAIN = 0.2
_PAYS_WITHIN_DAYS = 365


def problem_with(one: Measured) -> str | None:
    """Why the answers of a model say nothing, as a sentence; None if they can be compared."""
    answered = len(one.scores)
    if answered - one.cut_off >= _ANSWERED * one.asked:
        return None
    if one.cut_off > one.asked - answered:
        return msg(
            "No verdict: {model} used up the token limit before it wrote a word on {n} of {rows} rows.",
            model=one.model,
            n=f"{one.cut_off:,}",
            rows=f"{one.asked:,}",
        )
    return msg(
        "No verdict yet: {model} has answered {n} of {rows} rows.",
        model=one.model,
        n=f"{answered:,}",
        rows=f"{one.asked:,}",
    )


def _baseline(variants: Sequence[Variant], task: Task, margin: float) -> Decision:
    """The verdict without a tuned model: what the base can do already, and what tuning could add at most."""
    known = [one for one in variants if one.score is not None]
    if not known:
        return "unanswered", None, msg("No verdict yet: no row was answered.")
    best = max(known, key=lambda one: (_score(one).value, -(one.shots or 0)))
    unknown_gain = msg("Whether tuning is better is open until a tuned model is compared.")
    if task == "text":
        return "baseline", best, sentences(_similarity(best), unknown_gain)
    enough = [one for one in known if _score(one).low >= 1 - margin]
    if enough:
        return "prompt", enough[0], sentences(msg("Do not tune."), _right(enough[0]), _most_gain(enough[0]))
    if _score(best).high < _USABLE_SCORE:
        return (
            "baseline",
            best,
            sentences(
                msg("A prompt is not enough for this base."), _right(best), msg("Train it, or try a larger base model.")
            ),
        )
    if 1 - _score(best).low > _LITTLE_TO_GAIN:
        return "baseline", best, sentences(_right(best), unknown_gain)
    return "baseline", best, sentences(_right(best), _most_gain(best), unknown_gain)


def _right(one: Variant) -> str:
    score = _score(one)
    return msg(
        "{prompted}, the base gets {share} right on {n} rows (95 % interval {low} to {high}).",
        prompted=_prompted(one),
        share=percent(score.value),
        n=f"{score.n:,}",
        low=percent(score.low),
        high=percent(score.high),
    )


def _similarity(one: Variant) -> str:
    score = _score(one)
    return msg(
        "{prompted}, the base's texts have a similarity of {share} to the expected ones ({low} to {high}, {n} rows).",
        prompted=_prompted(one),
        share=percent(score.value),
        n=f"{score.n:,}",
        low=percent(score.low),
        high=percent(score.high),
    )


def _most_gain(one: Variant) -> str:
    return msg("Tuning can gain at most {points} points.", points=verdict.points(ceil, 1 - _score(one).low))


def decide(
    variants: Sequence[Variant], margin: float, training: TrainingCosts, *, has_tuned: bool, task: Task
) -> Decision:
    """The verdict on the variants that can be compared, fewest examples first."""
    if not has_tuned:
        return _baseline(variants, task, margin)
    compared = [one for one in variants if one.difference is not None]
    if not compared:
        return "unanswered", None, msg("No verdict: there are no rows that both models have answered.")
    as_good = [one for one in compared if _difference(one).low >= -margin]
    if good := [one for one in as_good if not one.worse_parts]:
        return _as_good(good[0], training)
    best = max(compared, key=lambda one: (_difference(one).value, -(one.shots or 0)))
    if as_good:
        found = max(as_good, key=lambda one: _difference(one).value)
        return "worse_part", found, _worse_part(found)
    if all(_difference(one).high < 0 for one in compared):
        return "tune", best, msg(
            "Tune: the tuned model is {low} to {high} points better than the base {prompted}, on {n} rows (95 % "
            "confidence).",
            low=verdict.points(floor, -_difference(best).high), high=verdict.points(ceil, -_difference(best).low),
            prompted=_prompted_inside(best), n=f"{_difference(best).n:,}",
        )  # fmt: skip
    return "undecided", best, _undecided(best, margin)


def _as_good(one: Variant, training: TrainingCosts) -> Decision:
    crossing = one.break_even
    if crossing is None or crossing.outcome in ("unknown", "until"):
        return "prompt", one, _do_not_tune(one, msg("Costs are not compared, because a price is unknown."))
    if crossing.outcome == "never":
        return "prompt", one, _do_not_tune(one, msg("The prompt costs no more per call."))
    if crossing.outcome == "at_once":
        return "tune_to_save", one, _tune_to_save(one, msg("The tuned model costs less from the first call."))
    calls = f"{crossing.requests:,}"
    if crossing.days is not None and crossing.days <= _PAYS_WITHIN_DAYS:
        pays = msg(
            "With {per_month} calls a month, training pays for itself after {calls} calls, in about {days} days.",
            per_month=f"{training.calls_per_month:,}",
            calls=calls,
            days=f"{max(2, round(crossing.days)):,}",
        )
        return "tune_to_save", one, _tune_to_save(one, pays)
    return "prompt", one, _do_not_tune(one, msg("The prompt costs less for the first {calls} calls.", calls=calls))


def _do_not_tune(one: Variant, costs: str) -> str:
    start = msg(
        "Do not tune: {prompted}, the base is as good within {points} points on {n} rows (95 % confidence).",
        prompted=_prompted_inside(one),
        points=_loss(one),
        n=f"{_difference(one).n:,}",
    )
    return sentences(start, costs)


def _tune_to_save(one: Variant, costs: str) -> str:
    start = msg(
        "Tune only to save money: {prompted}, the base is as good within {points} points on {n} rows (95 % "
        "confidence).",
        prompted=_prompted_inside(one),
        points=_loss(one),
        n=f"{_difference(one).n:,}",
    )
    return sentences(start, costs)


def _loss(one: Variant) -> str:
    """How much worse the base may be, in points."""
    return f"{max(1, ceil(round(-100 * _difference(one).low, 6)))}"


def _worse_part(one: Variant) -> str:
    part = one.worse_parts[0]
    return msg(
        "{prompted}, the base is as good in total, but not at {part}: {wrong} of {of} wrong, and {tuned_wrong} with "
        "the tuned model. Tune if this label matters to you.",
        prompted=_prompted(one),
        part=part.name,
        wrong=f"{part.n - part.new_right:,}",
        of=f"{part.n:,}",
        tuned_wrong=f"{part.n - part.old_right:,}",
    )


def _undecided(one: Variant, margin: float) -> str:
    difference = _difference(one)
    needed = verdict.rows_needed(difference, margin)
    start = msg(
        "Too few rows to say: {prompted}, the base is between {low} and {high} points from the tuned model on {n} "
        "rows.",
        prompted=_prompted_inside(one),
        low=f"{100 * difference.low:+.0f}",
        high=f"{100 * difference.high:+.0f}",
        n=f"{difference.n:,}",
    )
    return sentences(start, "" if needed is None else msg("Compare about {needed} rows.", needed=f"{needed:,}"))


def _score(one: Variant) -> Interval:
    assert one.score is not None
    return one.score


def _difference(one: Variant) -> Interval:
    assert one.difference is not None
    return one.difference


def with_examples(shots: int) -> str:
    """The name of a variant at the start of a sentence."""
    if shots == 0:
        return msg("Without examples")
    return msg("With one example") if shots == 1 else msg("With {shots} examples", shots=shots)


def _prompted(one: Variant) -> str:
    return with_examples(one.shots or 0)


def _prompted_inside(one: Variant) -> str:
    """The same inside a sentence."""
    if not one.shots:
        return msg("without examples")
    return msg("with one example") if one.shots == 1 else msg("with {shots} examples", shots=one.shots)
