"""How an answer to a row looks in a rescue file: everything that finds its row and its cost again."""

from __future__ import annotations

from core.dataset.writing.ledger import Outcome
from core.dataset.writing.orders import Order
from core.db.rescue import Entry


def row_entry(order: Order, outcome: Outcome) -> Entry:
    """The line for one outcome of a run."""
    return {
        "kind": "row",
        "at": outcome.at.isoformat(),
        "dataset_id": order.dataset_id,
        "run_id": order.run_id,
        "key": outcome.key,
        "claimed_by": order.claimant,
        "state": outcome.state,
        "reason": outcome.reason,
        "text": outcome.text,
        "finish_reason": outcome.finish_reason,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "cost_usd": outcome.cost_usd,
        "spend": {
            "id": outcome.spend_id,
            "actor": order.actor.id,
            "page": "dataset",
            "provider": order.provider,
            "model": order.model,
            "reference": order.run_id,
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "cost_usd": outcome.cost_usd,
            "estimated_usd": outcome.reserved_usd,
        },
    }
