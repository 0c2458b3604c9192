"""The words of a story in the library while they come, and what they took once they have come."""

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
from core.story.billing import LONGEST_NAME
from core.story.story_facts import StoryFacts

_LONGEST_WORD = 30  # characters of a reason that the table takes


@dataclass(frozen=True, slots=True)
class StoryPlacement:
    """Where a story belongs.

    Attributes:
        round_id: the round of stories from one prompt, side by side; or the chain that it is a step of.
        step: of a chain: its name.
        column_values: what filled the columns of the prompt.
        goes_on: the story that this is the rest of: its id, and its text so far.
    """

    round_id: str | None = None
    step: str | None = None
    column_values: dict[str, str] | None = None
    goes_on: tuple[str, str] | None = None


class StoryRecord:
    """One story's row. `asked` is how it was asked for; of a story that goes on, how it began."""

    def __init__(
        self, store: Store, actor: Actor, provider: str, asked: CompletionRequest, place: StoryPlacement
    ) -> None:
        self.id, self.before = place.goes_on or (new_id(), "")
        self._store, self._actor, self._provider, self._asked, self._place = store, actor, provider, asked, place
        self._began = time.monotonic()

    def keep(self, text: str, facts: StoryFacts, error: FabulaError | None) -> None:
        """Write the words so far. A story without a word is not kept.

        Raises:
            StorageFull: it could not be written.
        """
        with self._store.session() as session:
            self.keep_in(session, text, facts, error)

    def keep_in(
        self, session: Session, text: str, facts: StoryFacts, error: FabulaError | None, *, over: bool = False
    ) -> None:
        """`keep`, in the caller's transaction; `over`: and what the words took."""
        if text:
            row = session.get(Story, self.id)
            if row is None:
                row = self._first()
                session.add(row)
            row.text = text
            row.model = storable(facts.model)[:LONGEST_NAME]
            row.finish_reason = storable(facts.finish_reason)[:_LONGEST_WORD] if facts.finish_reason else None
            row.error = storable(sentences(error.what, error.next_step)) if error is not None else None
            row.prompt_tokens = facts.prompt_tokens
            seconds = time.monotonic() - self._began
            if self._place.goes_on is None:
                row.first_text_s = facts.first_text_s
                row.completion_tokens, row.cost_usd, row.duration_s = facts.tokens, facts.cost_usd, seconds
            elif over:  # once
                row.completion_tokens = _sum(row.completion_tokens, facts.tokens)
                row.cost_usd = _sum(row.cost_usd, facts.cost_usd)
                row.duration_s = _sum(row.duration_s, seconds)

    def entry(self, text: str, facts: StoryFacts, error: FabulaError | None) -> dict[str, Any]:
        """The story as a rescue file has it (see `core.recovery`)."""
        values = {
            "actor": self._actor.id,
            "provider": self._provider,
            "asked_model": self._asked.model[:LONGEST_NAME],
            "prompt": self._asked.prompt,
            "parameters": _parameters(self._asked),
            "round_id": self._place.round_id,
            "step": self._place.step,
            "column_values": self._place.column_values,
            "text": text,
            "model": storable(facts.model)[:LONGEST_NAME],
            "finish_reason": storable(facts.finish_reason)[:_LONGEST_WORD] if facts.finish_reason else None,
            "error": storable(sentences(error.what, error.next_step)) if error is not None else None,
            "prompt_tokens": facts.prompt_tokens,
            "completion_tokens": facts.tokens,
            "cost_usd": facts.cost_usd,
            "first_text_s": facts.first_text_s,
            "duration_s": time.monotonic() - self._began,
        }
        return {"story_id": self.id, "values": values}

    def _first(self) -> Story:
        return Story(
            id=self.id,
            actor=self._actor.id,
            provider=self._provider,
            asked_model=self._asked.model[:LONGEST_NAME],
            prompt=self._asked.prompt,
            parameters=_parameters(self._asked),
            round_id=self._place.round_id,
            step=self._place.step,
            column_values=self._place.column_values,
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


def _sum(before: Any, now: Any) -> Any:
    """Both together; unknown when one of them is."""
    return None if before is None or now is None else before + now
