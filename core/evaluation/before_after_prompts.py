"""The prompts of a job's before-and-after comparison, none of which were used in training.

They are chosen from held-out rows, otherwise from unused cells of the grid, otherwise from values outside the grid. A
person can add prompts (also with answers from another page), remove them and restore them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from types import MappingProxyType
from typing import Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import conversation_rows, dataset_rows, datasets, export, presets
from core.db.store import Store, advisory_lock
from core.db.tables import BeforeAfter, BeforeAfterAnswer, Dataset, Row, Story, utcnow
from core.errors import FabulaError, NotFound
from core.evaluation import before_after
from core.evaluation.before_after import ACTIVE, SIDES, AnswerPair, Side, SideAnswer, start
from core.evaluation.holdout import PARTS, Kind, held_out, holdout_rows
from core.finetuning.job_views import JobView
from core.message import msg
from core.ownership import edits
from core.pricing import tokens
from core.pricing.price_book import PriceBook, cost_of
from core.sanitize import storable

Source = Literal["held_out", "grid", "preset", "tools", "none"]

PROMPTS = 3  # enough to compare, few enough to read
_CANDIDATES = 60  # rows or cells to consider; some may have been in the training data
_SEED = 7  # so that a job always gets the same cells
_MAX_VALUES = 200  # per column; with more values it is free text, not a grid
_LENGTH_SAMPLE = 50  # training texts used to estimate the answer length
_LENGTH_FACTOR = 1.5  # times the longest of them
_MIN_TOKENS = 16  # enough for a label in any script
_MAX_TOKENS = 600  # sample stories have up to 400; an untuned base model rarely stops

MAX_PROMPTS = 20  # per job, including prompts that people add
_MAX_PROMPT_CHARS = 20_000  # characters
_WAITING = SideAnswer("waiting")


@dataclass(frozen=True, slots=True)
class UnseenPrompt:
    """One prompt in the data set's format. `expected`: the text of the held-out row, if the prompt comes from one."""

    prompt: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """Up to `PROMPTS` prompts, and limits for their answers.

    Attributes:
        source: source of the first prompts: `held_out` rows, unused cells of the `grid`, values of a `preset`. Missing
            prompts come from the next source. If there are no prompts: `tools` if only rows with tools are held out,
            whose answers have no text to show, otherwise `none`: all possible prompts were used in training.
        max_tokens: maximum tokens per answer, estimated from training texts.
        kind: `label` or `text`, as for an evaluation.
    """

    source: Source
    prompts: tuple[UnseenPrompt, ...]
    max_tokens: int
    kind: Kind


def choose_prompts(store: Store, job: JobView, on_example: Callable[[], None] = lambda: None) -> PromptChoice:
    """Choose prompts for a job. The result is the same every time unless the data set changes.

    Args:
        on_example: called once for each training example read, for progress.

    Raises:
        NotFound: the data set does not exist.
    """
    if job.dataset_id is None:
        raise NotFound(msg("The job has no data set."), msg("Choose a data set and train again."))
    kind = held_out(store, job.dataset_id, job.version_id).kind
    training_rows = export.Selection(store, job.dataset_id, job.version_id)
    texts = [text for _prompt, text in islice(iter(training_rows.examples()), _LENGTH_SAMPLE)]
    longest = max((tokens.count([text], job.base_model).tokens for text in texts), default=0)
    max_tokens = max(_MIN_TOKENS, min(_MAX_TOKENS, int(longest * _LENGTH_FACTOR)))
    chosen: list[UnseenPrompt] = []
    first_source: Source = "none"
    sources = [(source, list(prompts)) for source, prompts in _sources(store, job.dataset_id, job.version_id)]
    unseen = {item.prompt.strip() for _source, prompts in sources for item in prompts} - {""}
    for prompt, _text in export.ProgressExamples(training_rows.examples(), on_example):
        unseen.discard(prompt.strip())
    for source, prompts in sources:
        for item in prompts:
            if len(chosen) < PROMPTS and item.prompt.strip() in unseen:
                chosen.append(item)
                unseen.discard(item.prompt.strip())  # no duplicates
                first_source = source if first_source == "none" else first_source
    if any(source == "tools" for source, _prompts in sources):
        first_source = "tools"
    return PromptChoice(first_source, tuple(chosen), max_tokens, kind)


def _sources(store: Store, dataset_id: str, version_id: str | None) -> Iterator[tuple[Source, Iterable[UnseenPrompt]]]:
    """Sources of prompts, best first; held-out rows also have an expected answer."""
    held_out = holdout_rows(store, dataset_id, version_id, parts=PARTS["both"], limit=_CANDIDATES)
    with store.reading() as session:
        dataset = session.get_one(Dataset, dataset_id)
    if conversation_rows.holds(dataset.columns):
        rows = [conversation_rows.to_ask(row.prompt, row.expected) for row in held_out]
        # a streamed call of a tool has no text to show
        without_tools = [UnseenPrompt(*row) for row in rows if not conversation_rows.asked(row[0]).tools]
        yield "held_out" if without_tools or not rows else "tools", without_tools
        return
    yield "held_out", [UnseenPrompt(row.prompt, row.expected) for row in held_out]
    yield "grid", (UnseenPrompt(dataset_rows.prompt_of(dataset, cell)) for cell in _cells(store, dataset))
    for preset in presets.load():
        if [column.name for column in preset.recipe.columns] == dataset.columns:
            yield "preset", (UnseenPrompt(_prompt_from_values(dataset, values)) for values in preset.outside)


def _cells(store: Store, dataset: Dataset) -> Iterator[dict[str, str]]:
    """Random cells of the grid, which comes from the recipe or from the values in the rows."""
    values = _values(store, dataset)
    if len(values) < 2 or not all(values.values()):
        return
    rng, seen = random.Random(_SEED), set[tuple[str, ...]]()
    for _ in range(_CANDIDATES):
        cell = tuple(rng.choice(options) for options in values.values())
        if cell not in seen:
            seen.add(cell)
            yield dict(zip(values, cell, strict=True))


def _values(store: Store, dataset: Dataset) -> dict[str, list[str]]:
    """The values of each column, in order; empty if the columns are not a grid."""
    recipe = datasets.grid_recipe(store, dataset.id)
    if recipe is not None:
        return {column.name: list(column.values) for column in recipe.columns}
    values_by_column: dict[str, dict[str, None]] = {column: {} for column in dataset.columns}
    rows, query = 0, select(Row.column_values).where(Row.dataset_id == dataset.id, Row.state == "done")
    with store.reading() as session:
        for cell in session.scalars(query.order_by(Row.position)):
            rows += 1
            for column, values in values_by_column.items():
                values[str(cell.get(column, ""))] = None
                if len(values) > _MAX_VALUES:
                    return {}
    repeated = all(2 * len(values) <= rows for values in values_by_column.values())  # otherwise free text
    return {column: list(values) for column, values in values_by_column.items()} if repeated else {}


def _prompt_from_values(dataset: Dataset, values: Iterable[str]) -> str:
    return dataset_rows.prompt_of(dataset, dict(zip(dataset.columns, values, strict=False)))


def estimate_usd(book: PriceBook, job: JobView, choice: PromptChoice) -> Decimal | None:
    """The maximum cost of answering the chosen prompts with both models; None if a price is unknown."""
    total = Decimal(0)
    for model in (job.base_model, job.fine_tuned_model or ""):
        for item in choice.prompts:
            prompt_tokens = tokens.count([item.prompt], model).tokens
            cost = cost_of(book, job.provider, model, prompt_tokens, choice.max_tokens)
            if cost is None:
                return None
            total += cost
    return total


@dataclass(frozen=True, slots=True)
class RemovedPair:
    """A removed pair with the previous state of its comparison, for `restore`."""

    job_id: str
    pair: AnswerPair
    state: str
    reason: str | None


@requires("editor")
@edits(job="job.id")
def add_prompt(store: Store, actor: Actor, job: JobView, prompt: str) -> int:
    """Add a prompt for both models to answer. Returns its position, from 0.

    Raises:
        FabulaError: the prompt is empty or too long, there are too many prompts, or a reason given at `start`.
    """
    text = storable(prompt).strip()
    if not text or len(text) > _MAX_PROMPT_CHARS:
        raise FabulaError(
            msg("A prompt needs 1 to {limit} characters.", limit=f"{_MAX_PROMPT_CHARS:,}"),
            msg("Change it and try again."),
        )
    before_after_id = start(store, actor, job)
    with store.session() as session:
        advisory_lock(session, "before_after")
        comparison = session.get_one(BeforeAfter, before_after_id)
        if _count_prompts(session, before_after_id) >= MAX_PROMPTS:
            raise FabulaError(
                msg("A job can have up to {limit} prompts.", limit=MAX_PROMPTS), msg("Write more on the story page.")
            )
        position = next_position(session, before_after_id)
        add_pair(session, before_after_id, position, text, None)
        if comparison.state not in ACTIVE:
            comparison.state, comparison.reason, comparison.finished_at = "queued", None, None
        return position


@requires("editor")
@edits(job="job.id")
def add_answered_prompt(
    store: Store, actor: Actor, job: JobView, prompt: str, answers: Mapping[Side, SideAnswer]
) -> int | None:
    """Add a prompt that both models have already answered on another page.

    Args:
        answers: `state`, `reason` and `story_id` of each side are used.

    Returns:
        Its position, or None if the job already has `MAX_PROMPTS` prompts.

    Raises:
        FabulaError: see `start`.
    """
    before_after_id = start(store, actor, job)
    with store.session() as session:
        advisory_lock(session, "before_after")
        if _count_prompts(session, before_after_id) >= MAX_PROMPTS:
            return None
        position = next_position(session, before_after_id)
        add_pair(session, before_after_id, position, storable(prompt), None, answers)
        return position


@requires("editor")
@edits(job="job_id")
def remove(store: Store, actor: Actor, job_id: str, position: int) -> RemovedPair:
    """Remove a prompt and both answers from a job's comparison; `restore` undoes this.

    The cost stays in the spend ledger. A failed or stopped comparison becomes done if all other answers are complete.

    Raises:
        NotFound: the prompt does not exist.
        FabulaError: it is still being answered.
    """
    view = before_after.get(store, job_id)
    pair = next((pair for pair in view.pairs if pair.position == position), None) if view is not None else None
    if view is None or pair is None:
        raise NotFound(msg("This prompt no longer exists."), msg("Reload the page."))
    with store.session() as session:
        advisory_lock(session, "before_after")
        comparison = before_after.get_row(session, job_id)
        removed = RemovedPair(job_id, pair, comparison.state, comparison.reason)
        answers = list(
            session.scalars(select(BeforeAfterAnswer).where(BeforeAfterAnswer.before_after_id == comparison.id))
        )
        for answer in (answer for answer in answers if answer.position == position):
            if answer.state in before_after.PENDING:
                raise FabulaError(msg("This prompt is still being answered."), msg("Stop first, then remove it."))
            session.execute(update(Story).where(Story.id == answer.story_id).values(deleted_at=utcnow()))
            session.delete(answer)
        if comparison.state in ("failed", "stopped") and all(
            answer.state == "done" for answer in answers if answer.position != position
        ):
            comparison.state, comparison.reason = "done", None
        return removed


@requires("editor")
@edits(job="removed.job_id")
def restore(store: Store, actor: Actor, removed: RemovedPair) -> None:
    """Restore a removed pair, at the end if its position is taken."""
    pair = removed.pair
    with store.session() as session:
        advisory_lock(session, "before_after")
        comparison = before_after.get_row(session, removed.job_id)
        same_position = (
            BeforeAfterAnswer.before_after_id == comparison.id,
            BeforeAfterAnswer.position == pair.position,
        )
        taken = session.scalar(select(func.count()).where(*same_position))
        position = next_position(session, comparison.id) if taken else pair.position
        sides: dict[Side, SideAnswer] = {"base": pair.base, "tuned": pair.tuned}
        add_pair(session, comparison.id, position, pair.prompt, pair.expected, sides)
        ids = [side.story_id for side in sides.values()]
        session.execute(update(Story).where(Story.id.in_(ids)).values(deleted_at=None))
        if comparison.state not in before_after.ACTIVE:
            comparison.state, comparison.reason = removed.state, removed.reason


def next_position(session: Session, before_after_id: str) -> int:
    """The position after the last prompt of a comparison."""
    last = session.scalar(
        select(func.max(BeforeAfterAnswer.position)).where(BeforeAfterAnswer.before_after_id == before_after_id)
    )
    return 0 if last is None else last + 1


def add_pair(
    session: Session,
    before_after_id: str,
    position: int,
    prompt: str,
    expected: str | None,
    answers: Mapping[Side, SideAnswer] = MappingProxyType({}),
) -> None:
    """Add a prompt with its existing answers; a side without an answer waits for one."""
    for side in SIDES:
        answer = answers.get(side, _WAITING)
        session.add(
            BeforeAfterAnswer(
                before_after_id=before_after_id, position=position, side=side, prompt=prompt, expected=expected,
                state=answer.state, reason=answer.reason, story_id=answer.story_id,
            )
        )  # fmt: skip


def _count_prompts(session: Session, before_after_id: str) -> int:
    """The number of prompts of a comparison."""
    mine = BeforeAfterAnswer.before_after_id == before_after_id
    return session.scalar(select(func.count(BeforeAfterAnswer.position.distinct())).where(mine)) or 0
