"""Trials of a base model with 0, 3 and 8 examples in the prompt, on rows that are kept from training.

Each number of examples is an evaluation, so a trial survives a kill, respects budgets, and pays no answer twice. It
needs no tuned model; `core.parity.prompt_report` compares it with one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from statistics import mean

from core.actor import Actor, requires
from core.datasets import conversation_rows, datasets
from core.db.store import Store
from core.errors import BadTrainingFile
from core.evaluation import evaluations, few_shot, holdout
from core.evaluation.evaluation_run import max_answer_tokens
from core.evaluation.evaluations import EvaluationForm, EvaluationView
from core.evaluation.few_shot import SHOTS, PromptExample
from core.evaluation.holdout import PARTS, HeldOutExample
from core.message import listed, msg
from core.ownership import reads
from core.pricing import tokens
from core.pricing.price_book import GenerationEstimate, PriceBook, estimate_generation

_REASONING = re.compile(r"(gpt-5(?!.*chat)|o[1-9]|gpt-oss|deepseek-r|qwq).*")
_REASONING_TOKENS = 2_000  # such a model thinks before it answers, within the token limit of the answer
_USUAL_REASONING_TOKENS = 500  # of a short task
_EVERY_ROW = 10**9
_MAX_NAMED = 5  # labels that a note names


@dataclass(frozen=True, slots=True)
class PromptTrial:
    """What to try.

    Attributes:
        dataset_id, version_id: source of the rows and of the examples.
        provider, model: the base model.
        instruction: system prompt; None means the default (`default_instruction`).
        limit, seed: maximum number of rows, and what draws rows and examples.
        continues_text: the model does not follow instructions, so the examples are part of one text.
    """

    dataset_id: str
    provider: str
    model: str
    version_id: str | None = None
    instruction: str | None = None
    limit: int = 200
    seed: int = 0
    continues_text: bool = False


@dataclass(frozen=True, slots=True)
class PlannedVariant:
    """One number of examples: the evaluation's form, and its expected and highest cost."""

    form: EvaluationForm
    estimate: GenerationEstimate


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What a trial would send.

    Attributes:
        rows: how many rows are asked.
        instruction: the system prompt.
        examples: all examples, in the order in which they are shown; fewer examples are the first of them.
        notes: what the results will not show, and why there are fewer examples; sentences.
    """

    rows: int
    instruction: str
    examples: tuple[PromptExample, ...]
    variants: tuple[PlannedVariant, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartedTrial:
    """A stored trial: one evaluation for each number of examples, fewest first."""

    evaluations: tuple[EvaluationView, ...]

    @property
    def dataset_id(self) -> str:
        """The data set of its rows."""
        return self.evaluations[0].dataset_id

    @property
    def version_id(self) -> str | None:
        """The version of the data set; None for its current rows."""
        return self.evaluations[0].version_id

    @property
    def provider(self) -> str:
        """The base model's provider."""
        return self.evaluations[0].provider

    @property
    def model(self) -> str:
        """The base model."""
        return self.evaluations[0].model

    @property
    def instruction(self) -> str:
        """The system prompt."""
        return str(self.evaluations[0].settings["system"])

    @property
    def limit(self) -> int:
        """The maximum number of rows."""
        return int(self.evaluations[0].settings["limit"])

    @property
    def seed(self) -> int:
        """What drew the rows."""
        return int(self.evaluations[0].settings["seed"])

    @property
    def active(self) -> bool:
        """Whether the worker still has work to do for it."""
        return any(one.active for one in self.evaluations)

    @property
    def examples(self) -> tuple[PromptExample, ...]:
        """The examples of its longest prompt."""
        return tuple(PromptExample(**one) for one in self.evaluations[-1].settings["examples"])


def default_instruction(store: Store, dataset_id: str, version_id: str | None) -> str:
    """The data set's system message, and for labels the list of those that training rows have."""
    rows = holdout.held_out(store, dataset_id, version_id)
    labels = _labels(holdout.training_rows(store, dataset_id, version_id)) if rows.kind == "label" else []
    parts = [datasets.system_message(store, dataset_id), few_shot.label_instruction(labels) if labels else ""]
    return "\n".join(part for part in parts if part)


def plan(store: Store, book: PriceBook, trial: PromptTrial, context: int | None) -> TrialPlan:
    """What the trial would send, and its cost.

    Args:
        context: tokens that the model can read; None if unknown.

    Raises:
        NotFound: the data set does not exist.
        BadTrainingFile: no rows were kept from training.
    """
    if conversation_rows.holds(datasets.summary(store, trial.dataset_id).columns):
        raise BadTrainingFile(
            msg("Prompts can't be tried on conversations with several turns or tools."),
            msg("Train a model on them, then compare it with the old one."),
        )
    source = (store, trial.dataset_id, trial.version_id)
    kept = holdout.held_out(*source)
    asked = list(holdout.holdout_rows(*source, parts=PARTS["both"], limit=trial.limit, seed=trial.seed))
    if not asked:
        raise BadTrainingFile(
            msg("All rows are used for training, so no row is left to compare on."),
            msg("Choose a version of the data set that has validation rows, or save one."),
        )
    every = holdout.holdout_rows(*source, parts=PARTS["both"], limit=_EVERY_ROW)
    held_out_prompts = {row.prompt for row in every}
    training = list(holdout.training_rows(*source, seed=trial.seed))
    is_label = kept.kind == "label"
    instruction = default_instruction(*source) if trial.instruction is None else trial.instruction.strip()
    reasons = _REASONING.fullmatch(trial.model.rsplit("/", 1)[-1]) is not None
    max_tokens = max_answer_tokens(trial.model, asked) + (_REASONING_TOKENS if reasons else 0)
    count = partial(_count, trial.model)
    lengths = [few_shot.prompt_tokens(instruction, row.prompt, count) for row in asked]
    fitting = [length for length in lengths if context is None or length + max_tokens <= context]
    chosen = few_shot.choose(
        (PromptExample(row.prompt, row.expected.strip()) for row in training),
        max(SHOTS),
        held_out_prompts=held_out_prompts,
        is_label=is_label,
        room=None if context is None else max(0, context - max_tokens - max(fitting, default=context)),
        count=count,
        seed=trial.seed,
    )
    base = EvaluationForm(
        trial.dataset_id, trial.provider, trial.model, version_id=trial.version_id, kind=kept.kind, limit=trial.limit,
        max_tokens=max_tokens, seed=trial.seed, system=instruction,
        file_format="completion" if trial.continues_text else "chat",
    )  # fmt: skip
    answer_tokens = ceil(mean(count(row.expected) for row in asked)) + (_USUAL_REASONING_TOKENS if reasons else 0)
    variants = tuple(
        _variant(book, base, chosen.examples[:shots], ceil(mean(lengths)), answer_tokens, len(asked), count)
        for shots in sorted({min(shots, len(chosen.examples)) for shots in SHOTS})
    )
    notes = [
        _too_long_rows(len(asked) - len(fitting), len(asked), context),
        _few_examples(len(chosen.examples), chosen.too_long),
        _unknown_labels(training, asked) if is_label else "",
    ]
    return TrialPlan(len(asked), instruction, chosen.examples, variants, tuple(note for note in notes if note))


@requires("editor")
@reads(dataset="trial.dataset_id", version="trial.version_id", model="trial.model")
def start(store: Store, actor: Actor, book: PriceBook, trial: PromptTrial, context: int | None) -> tuple[str, ...]:
    """Start the trial's evaluations and return their ids, fewest examples first.

    An evaluation that exists is used: its answers are not requested again, only missing ones are.

    Raises:
        NotFound, BadTrainingFile: see `plan`.
        FabulaError: the limit is out of range.
    """
    planned = plan(store, book, trial, context)
    return tuple(evaluations.start(store, actor, variant.form, once=True) for variant in planned.variants)


def list_trials(store: Store, dataset_id: str, version_id: str | None) -> tuple[StartedTrial, ...]:
    """The trials on these rows, newest first."""
    found = list[dict[int, EvaluationView]]()
    for one in evaluations.list_evaluations(store, dataset_id=dataset_id, prompted=True):
        if one.version_id == version_id and one.shots is not None:
            fitting = [trial for trial in found if one.shots not in trial and _same_draw(one, trial)]
            if not fitting:
                found.append({one.shots: one})
            for trial in fitting if not one.shots else fitting[:1]:  # without examples, it belongs to every draw
                trial[one.shots] = one
    return tuple(StartedTrial(tuple(trial[shots] for shots in sorted(trial))) for trial in found)


def _same_draw(one: EvaluationView, trial: Mapping[int, EvaluationView]) -> bool:
    """Whether an evaluation has the settings of a trial's, and its examples are the first of theirs, or the reverse."""
    for other in trial.values():
        same = ("system", "limit", "seed", "file_format", "max_tokens")
        if (one.provider, one.model) != (other.provider, other.model):
            return False
        if any(one.settings[name] != other.settings[name] for name in same):
            return False
        shared = min(one.shots or 0, other.shots or 0)
        if one.settings["examples"][:shared] != other.settings["examples"][:shared]:
            return False
    return True


def _variant(
    book: PriceBook,
    base: EvaluationForm,
    examples: tuple[PromptExample, ...],
    prompt_tokens: int,
    answer_tokens: int,
    rows: int,
    count: Callable[[str], int],
) -> PlannedVariant:
    form = replace(base, shots=len(examples), examples=examples)
    added = sum(few_shot.example_tokens(one, count) for one in examples)
    estimate = estimate_generation(
        book, form.provider, form.model, requests=rows, prompt_tokens_each=prompt_tokens + added,
        completion_tokens_each=answer_tokens, max_tokens=form.max_tokens or answer_tokens,
    )  # fmt: skip
    return PlannedVariant(form, estimate)


def _count(model: str, text: str) -> int:
    counted = tokens.count([text], model)
    return counted.tokens if counted.exact else ceil(tokens.ROUGH * counted.tokens)


def _labels(rows: Iterable[HeldOutExample]) -> list[str]:
    return sorted({row.expected.strip() for row in rows})


def _too_long_rows(too_long: int, rows: int, context: int | None) -> str:
    if not too_long:
        return ""
    return msg(
        "{n} of {rows} rows do not fit into the model's context of {context} tokens. They will get no answer.",
        n=f"{too_long:,}",
        rows=f"{rows:,}",
        context=f"{context:,}",
    )


def _few_examples(examples: int, too_long: int) -> str:
    if examples >= max(SHOTS):
        return ""
    if too_long:
        return msg(
            "Only {examples} examples fit into the model's context; {n} training rows are too long.",
            examples=examples,
            n=f"{too_long:,}",
        )
    return msg("The training part has only {examples} rows that can be examples.", examples=examples)


def _unknown_labels(training: Sequence[HeldOutExample], asked: Sequence[HeldOutExample]) -> str:
    unknown = sorted(set(_labels(asked)) - set(_labels(training)))
    if not unknown:
        return ""
    names = [*unknown[:_MAX_NAMED], *(["…"] if len(unknown) > _MAX_NAMED else [])]
    return msg(
        "No training row has these labels, so neither a prompt nor a tuned model can know them: {labels}.",
        labels=listed(names),
    )
