"""Saves a story while it is being written, and its tokens, cost and duration."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store, new_id
from core.db.tables import Story
from core.errors import FabulaError
from core.message import sentences
from core.providers import CompletionRequest
from core.sanitize import storable
from core.stories.billing import MAX_MODEL_NAME_LENGTH
from core.stories.story_facts import StoryFacts

_MAX_FINISH_REASON_LENGTH = 30  # column width in the database


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
        self._store, self._actor, self._provider, self._original_request, self._placement = (
            store,
            actor,
            provider,
            original_request,
            placement,
        )
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
                row = self._new_row()
                session.add(row)
            row.text = text
            row.model = storable(facts.model)[:MAX_MODEL_NAME_LENGTH]
            row.finish_reason = (
                storable(facts.finish_reason)[:_MAX_FINISH_REASON_LENGTH] if facts.finish_reason else None
            )
            row.error = storable(sentences(error.what, error.next_step)) if error is not None else None
            row.prompt_tokens = facts.prompt_tokens
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
            "actor": self._actor.id,
            "provider": self._provider,
            "asked_model": self._original_request.model[:MAX_MODEL_NAME_LENGTH],
            "prompt": self._original_request.prompt,
            "parameters": _parameters(self._original_request),
            "round_id": self._placement.round_id,
            "step": self._placement.step,
            "column_values": self._placement.column_values,
            "text": text,
            "model": storable(facts.model)[:MAX_MODEL_NAME_LENGTH],
            "finish_reason": storable(facts.finish_reason)[:_MAX_FINISH_REASON_LENGTH] if facts.finish_reason else None,
            "error": storable(sentences(error.what, error.next_step)) if error is not None else None,
            "prompt_tokens": facts.prompt_tokens,
            "completion_tokens": facts.tokens,
            "cost_usd": facts.cost_usd,
            "first_text_s": facts.first_text_s,
            "duration_s": time.monotonic() - self._started,
        }
        return {"story_id": self.id, "values": values}

    def _new_row(self) -> Story:
        return Story(
            id=self.id,
            actor=self._actor.id,
            provider=self._provider,
            asked_model=self._original_request.model[:MAX_MODEL_NAME_LENGTH],
            prompt=self._original_request.prompt,
            parameters=_parameters(self._original_request),
            round_id=self._placement.round_id,
            step=self._placement.step,
            column_values=self._placement.column_values,
        )


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
