"""The money of one request that is sent on its own (a preview, an answer of an evaluation, a text read aloud):
reserved before it is sent, and settled when it is known what it cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import budget, spend
from core.cost.spend import Page
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import Spend
from core.errors import FabulaError, StorageFull

T = TypeVar("T")


class Reservation:
    """One line of the spend ledger, for one try of one request.

    Args:
        worst_usd: what it can cost at most; None: the price is unknown, which budgets refuse.

    Raises:
        OverBudget: it would go over a budget; nothing is written.
        StorageFull: the database cannot be written; nothing may be sent.
    """

    def __init__(
        self,
        store: Store,
        actor: Actor,
        page: Page,
        *,
        provider: str,
        model: str,
        reference: str,
        worst_usd: Decimal | None,
    ) -> None:
        self._store = store
        self._line: dict[str, Any] = {
            "actor": actor.id, "page": page, "provider": provider, "model": model, "reference": reference,
            "estimated_usd": worst_usd,
        }  # fmt: skip
        with store.session() as session:
            budget.check(session, actor, worst_usd, reference)
            self._id = spend.record(
                session, actor, page, provider=provider, model=model, reference=reference,
                cost_usd=worst_usd, estimated_usd=worst_usd,
            )  # fmt: skip

    def call(self, request: Callable[[], T]) -> T:
        """`request()`, one try. Where it fails, the reservation ends: see `failed`."""
        try:
            return request()
        except BaseException as exc:
            with suppress(StorageFull):  # it is in a rescue file, and the error that is raised matters more
                self.failed(exc)
            raise

    def failed(self, error: BaseException) -> None:
        """Give the reservation back where the request was refused or never arrived; else its cost is unknown, and its
        worst case counts (`spend.cost_usd` None, `estimated_usd` stays).

        Raises:
            StorageFull: it could not be written; the line is in a rescue file.
        """
        if getattr(error, "may_be_billed", not isinstance(error, FabulaError)):
            self.settle(None, None, None)
            return
        entry = {"kind": "spend", "spend": self.entry(0, 0, Decimal(0))}
        rescue_files.write_or_rescue(
            self._store, lambda session: session.delete(session.get_one(Spend, self._id)), entry
        )

    def settle(self, prompt_tokens: int | None, completion_tokens: int | None, cost_usd: Decimal | None) -> None:
        """What it really took.

        Raises:
            StorageFull: it could not be written; the line is in a rescue file.
        """
        used = (prompt_tokens, completion_tokens, cost_usd)
        entry = {"kind": "spend", "spend": self.entry(*used)}
        rescue_files.write_or_rescue(self._store, lambda session: self.settle_in(session, *used), entry)

    def settle_in(
        self,
        session: Session,
        prompt_tokens: int | None,
        completion_tokens: int | None,
        cost_usd: Decimal | None,
    ) -> None:
        """`settle`, in the caller's transaction."""
        spend.settle(
            session, self._id, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_usd=cost_usd
        )

    def entry(
        self, prompt_tokens: int | None, completion_tokens: int | None, cost_usd: Decimal | None
    ) -> dict[str, Any]:
        """The line as a rescue file has it (see `core.recovery`)."""
        used = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "cost_usd": cost_usd}
        return {"id": self._id, **self._line, **used}
