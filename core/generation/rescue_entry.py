"""The rescue file entry of an answer: everything needed to find its row and its cost record again."""

from __future__ import annotations

from core.db.rescue_files import Entry
from core.generation.row_store import RowOutcome
from core.generation.run_store import RunContext


def row_entry(context: RunContext, outcome: RowOutcome) -> Entry:
    """The entry for one outcome of a run."""
    return {
        "kind": "row",
        "at": outcome.at.isoformat(),
        "dataset_id": context.dataset_id,
        "run_id": context.run_id,
        "key": outcome.key,
        "claimed_by": context.claimant,
        "state": outcome.state,
        "reason": outcome.reason,
        "text": outcome.text,
        "finish_reason": outcome.finish_reason,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "cost_usd": outcome.cost_usd,
        "spend": {
            "id": outcome.spend_id,
            "actor": context.actor.id,
            "page": "dataset",
            "provider": context.provider,
            "model": context.model,
            "reference": context.run_id,
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "cost_usd": outcome.cost_usd,
            "estimated_usd": outcome.reserved_usd,
        },
    }
