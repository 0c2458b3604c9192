"""Saves a story while it is being written, with facts about its generation: model, tokens, cost, duration."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store, new_id
from core.db.tables import Story
from core.errors import FabulaError
from core.message import sentences
from core.ownership import is_private_model
from core.pricing import tokens
from core.providers import CompletionRequest
from core.sanitize import storable

# Dated snapshots match their alias (OpenAI: a request for gpt-4o-mini is answered by gpt-4o-mini-2024-07-18).
_DATED = re.compile(r"[-@:.](20\d{2}-?\d{2}(-?\d{2})?|\d{4,8}|latest)", re.ASCII)
MAX_MODEL_NAME_LENGTH = 200  # column width in the database
_MAX_FINISH_REASON_LENGTH = 30  # column width in the database


@dataclass(frozen=True, slots=True)
class StoryFacts:
    """Facts about how a story was generated. None means unknown, or not known yet.

    Attributes:
        model: the name that the endpoint returned; before the first text, the requested name.
        first_text_s: seconds from sending to the first text.
        tokens: completion tokens; tokens_per_s: their rate after the first one.
        finish_reason: `stop`, `length`, …; None while the story is being written, and if it was stopped or interrupted.
        stopped: whether it was stopped by a person, or because the last reader left (`abandoned`). The text is partial.
        cost_usd: cost, known at the end; None if the price is unknown.
        prompt_tokens: prompt tokens as counted by the endpoint.
        counted_locally: whether the endpoint did not report `tokens`, so that they were counted here.
        requested_model: the requested name; "" if it is the same as `model`.
        duration_s: seconds from sending to the latest text.
        has_thinking: whether the model has sent thinking, which is not part of the text.
    """

    model: str
    first_text_s: float | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    finish_reason: str | None = None
    stopped: bool = False
    cost_usd: Decimal | None = None
    prompt_tokens: int | None = None
    counted_locally: bool = False
    requested_model: str = ""
    abandoned: bool = False
    duration_s: float | None = None
    has_thinking: bool = False

    @property
    def answered_by_other_model(self) -> bool:
        """Whether a different model answered than the one requested."""
        return bool(self.requested_model) and not same_model(self.requested_model, self.model)


def same_model(requested: str, returned: str) -> bool:
    """Whether `returned` is the requested model or a dated snapshot of it.

    Case and a leading path are ignored, because servers spell names differently.
    """
    expected, actual = requested.strip().casefold(), returned.strip().casefold()
    if not actual or expected == actual or actual.endswith(f"/{expected}") or expected.endswith(f"/{actual}"):
        return True
    shorter, longer = sorted((expected, actual), key=len)
    return longer.startswith(shorter) and _DATED.fullmatch(longer[len(shorter) :]) is not None


@dataclass(frozen=True, slots=True)
class StoryUsage:
    """Tokens of one request. `counted_locally`: at least one number was counted here, not by the endpoint."""

    prompt_tokens: int
    completion_tokens: int
    counted_locally: bool


def count_usage(facts: StoryFacts, prompt: str, text: str) -> StoryUsage:
    """The endpoint's numbers if known, otherwise tokens counted from `prompt` and the `text` so far."""
    prompt_tokens = facts.prompt_tokens
    completion_tokens = None if facts.counted_locally else facts.tokens
    return StoryUsage(
        prompt_tokens=tokens.count([prompt], facts.model).tokens if prompt_tokens is None else prompt_tokens,
        completion_tokens=tokens.count([text], facts.model).tokens if completion_tokens is None else completion_tokens,
        counted_locally=prompt_tokens is None or completion_tokens is None,
    )


@dataclass(frozen=True, slots=True)
class StoryPlacement:
    """Where a story belongs.

    Attributes:
        round_id: the side-by-side round or the chain that it is part of.
        step: its step in a chain.
        column_values: the values that filled the prompt.
        continues: id and text so far of the story that this one continues.
    """

    round_id: str | None = None
    step: str | None = None
    column_values: dict[str, str] | None = None
    continues: tuple[str, str] | None = None


class StoryRecord:
    """One story's database row. `original_request`: for a continued story, the request that started it."""

    def __init__(
        self, store: Store, actor: Actor, provider: str, original_request: CompletionRequest, placement: StoryPlacement
    ) -> None:
        self.id, self.previous_text = placement.continues or (new_id(), "")
        self._store, self._actor, self._provider = store, actor, provider
        self._original_request, self._placement = original_request, placement
        self._started = time.monotonic()

    def save(self, text: str, facts: StoryFacts, error: FabulaError | None) -> None:
        """Save the text so far. A story without text is not saved.

        Raises:
            StorageFull: the database can't be written.
        """
        with self._store.session() as session:
            self.save_in(session, text, facts, error)

    def save_in(
        self, session: Session, text: str, facts: StoryFacts, error: FabulaError | None, *, final: bool = False
    ) -> None:
        """`save` in the caller's transaction. `final`: the story has ended; add the totals of a continued story."""
        if text:
            row = session.get(Story, self.id)
            if row is None:
                row = add_row(session, self.id, self._origin())
            for name, value in self._outcome(text, facts, error).items():
                setattr(row, name, value)
            seconds = time.monotonic() - self._started
            if self._placement.continues is None:
                row.first_text_s = facts.first_text_s
                row.completion_tokens, row.cost_usd, row.duration_s = facts.tokens, facts.cost_usd, seconds
            elif final:
                row.completion_tokens = _sum(row.completion_tokens, facts.tokens)
                row.cost_usd = _sum(row.cost_usd, facts.cost_usd)
                row.duration_s = _sum(row.duration_s, seconds)

    def rescue_entry(self, text: str, facts: StoryFacts, error: FabulaError | None) -> dict[str, Any]:
        """The story in the format of a rescue file (see `core.jobs.recovery`)."""
        values = {
            **self._origin(),
            **self._outcome(text, facts, error),
            "completion_tokens": facts.tokens,
            "cost_usd": facts.cost_usd,
            "first_text_s": facts.first_text_s,
            "duration_s": time.monotonic() - self._started,
        }
        return {"story_id": self.id, "values": values}

    def _origin(self) -> dict[str, Any]:
        """The columns that describe the story's origin, which are known before its first word."""
        return {
            "actor": self._actor.id,
            "provider": self._provider,
            "requested_model": self._original_request.model[:MAX_MODEL_NAME_LENGTH],
            "prompt": self._original_request.prompt,
            "parameters": _parameters(self._original_request),
            "round_id": self._placement.round_id,
            "step": self._placement.step,
            "column_values": self._placement.column_values,
        }

    def _outcome(self, text: str, facts: StoryFacts, error: FabulaError | None) -> dict[str, Any]:
        """The columns that change while the story is written."""
        return {
            "text": text,
            "model": storable(facts.model)[:MAX_MODEL_NAME_LENGTH],
            "finish_reason": storable(facts.finish_reason)[:_MAX_FINISH_REASON_LENGTH] if facts.finish_reason else None,
            "error": storable(sentences(error.what, error.next_step)) if error is not None else None,
            "prompt_tokens": facts.prompt_tokens,
        }


def add_row(session: Session, story_id: str, values: Mapping[str, Any]) -> Story:
    """Add a story's row. A story by a private model is private at first."""
    row = Story(id=story_id, **values)
    if is_private_model(session, str(values.get("requested_model"))):
        row.sharing = "private"
    session.add(row)
    return row


def _parameters(request: CompletionRequest) -> dict[str, Any]:
    return {
        "endpoint": request.endpoint,
        "system": request.system,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "seed": request.seed,
    }


def _sum(before: Any, added: Any) -> Any:
    """The sum; None if either is unknown."""
    return None if before is None or added is None else before + added
