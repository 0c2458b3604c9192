"""Tune or prompt: is a base with examples in its prompt as good as a tuned model, and which one costs less? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from core.evaluation.few_shot import PromptExample
from core.message import msg, to_json
from core.parity import prompt_verdict
from core.parity.prompt_variants import Measured, TrainingCosts, Variant, variant_of
from core.parity.prompt_verdict import Outcome, problem_with, with_examples
from core.parity.row_scores import Task
from core.parity.verdict import DEFAULT_MARGIN

_USABLE_SCORE = 0.5  # below it, a model is wrong more often than right
_SAME_ANSWER = 0.9


@dataclass(frozen=True, slots=True)
class TuneOrPrompt:
    """The result.

    Attributes:
        best: number of examples of the variant that the sentence is about; None if there is none.
        sentence: the verdict; notes: what else to know, as sentences.
        variants: the base with examples, fewest first; the tuned model comes last, if there is one.
    """

    base_model: str
    task: Task
    margin: float
    outcome: Outcome
    best: int | None
    sentence: str
    notes: tuple[str, ...]
    variants: tuple[Variant, ...]
    training: TrainingCosts
    instruction: str
    examples: tuple[PromptExample, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-compatible data; amounts are strings."""
        data = asdict(self) | {"sentence": to_json(self.sentence), "notes": [to_json(note) for note in self.notes]}
        return {name: _plain(value) for name, value in data.items()}


def compare(
    base: Sequence[Measured],
    tuned: Measured | None,
    training: TrainingCosts,
    *,
    task: Task,
    margin: float = DEFAULT_MARGIN,
    instruction: str = "",
    examples: Sequence[PromptExample] = (),
) -> TuneOrPrompt:
    """Compare the base with 0 and more examples, and with the tuned model if there is one.

    A variant that answered too few rows is shown, but the verdict is about the others.

    Args:
        base: the same base with different numbers of examples.
        margin: the loss that the user accepts, 0 to 1.

    Raises:
        ValueError: there is nothing to compare, or the margin is not between 0 and 1.
    """
    if not base or not 0 < margin < 1:
        raise ValueError("there must be a variant, and the margin must be between 0 and 1")
    measured = sorted(base, key=lambda one: one.shots or 0)
    problems = {one.shots: problem_with(one) for one in measured}
    usable = sum(problem is None for problem in problems.values())
    variants = tuple(variant_of(one, tuned, training, max(1, usable)) for one in measured)
    sound = [one for one in variants if problems[one.shots] is None]
    of_tuned = None if tuned is None else problem_with(tuned)
    outcome, best, sentence = prompt_verdict.decide(sound, margin, training, has_tuned=tuned is not None, task=task)
    found = [problem for problem in (of_tuned, *problems.values()) if problem is not None]
    if of_tuned is not None or not sound:
        outcome, best, sentence, *found = "unanswered", None, *found
    lines = variants if tuned is None else (*variants, variant_of(tuned, None, training, 1))
    return TuneOrPrompt(
        base_model=measured[0].model,
        task=task,
        margin=margin,
        outcome=outcome,
        best=None if best is None else best.shots,
        sentence=sentence,
        notes=(*found, *_notes(measured, lines, task)),
        variants=lines,
        training=training,
        instruction=instruction,
        examples=tuple(examples),
    )


def _notes(measured: Sequence[Measured], lines: Sequence[Variant], task: Task) -> Iterator[str]:
    for one in measured:
        if task == "label" and one.scores and one.most_frequent >= _SAME_ANSWER * len(one.scores):
            yield msg(
                "{prompted}, the base gives the same answer to {n} of {rows} rows.",
                prompted=with_examples(one.shots or 0),
                n=f"{one.most_frequent:,}",
                rows=f"{len(one.scores):,}",
            )
    scores = [one.score.high for one in lines if one.score is not None]
    has_tuned = any(one.shots is None for one in lines)
    if task == "label" and has_tuned and scores and max(scores) < _USABLE_SCORE:
        yield msg("All of these are wrong more often than right. Check the data set, or try another base model.")
    if task == "text":
        yield msg(
            "Similarity to one expected text says little about style and facts. Read some answers, or vote blind, "
            "before you decide."
        )
    if any(one.answered < one.asked for one in lines):
        yield msg("Rows without an answer are left out; the table shows how many were answered.")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Decimal) else value
