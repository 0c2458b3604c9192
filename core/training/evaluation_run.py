"""The worker's part of an evaluation: ask, judge, keep each answer at once, account for it, and sum up at the end."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from sqlalchemy import select

from core.cost import custom_prices, tokens
from core.db.store import Store
from core.db.tables import Evaluation, EvaluationAnswer, utcnow
from core.errors import FabulaError
from core.message import msg, sentences
from core.providers import Client, Registry
from core.providers.schemas import Endpoint
from core.settings import Settings
from core.training import holdout
from core.training.evaluation_context import EvaluationContext, EvaluationStopped
from core.training.evaluation_request import EvaluationRequester, endpoint
from core.training.evaluation_types import ACTIVE, EvaluationView, HeldOutExample

UNFINISHED = select(Evaluation.id).where(Evaluation.state.in_(ACTIVE)).order_by(Evaluation.id)
"""Ids of evaluations that a worker has to take up, oldest first."""

_LOOK_S = 0.5  # how soon a stop ends the requests that are under way
_AT_ONCE = 4  # requests: as many as the engine answers at a time
_ALIKE = 5  # answers that fail one after the other, at the beginning: then all will
_LABEL_TOKENS = 16  # a label in any script, and a word around it
_FACTOR = 1.5  # times the longest expected text
_MOST_TOKENS = 2_048


def carry_out(store: Store, registry: Registry, evaluation_id: str, stopping: threading.Event | None = None) -> None:
    """Bring an evaluation to its end, from wherever it is; rows that are answered are not asked again.

    Raises:
        FabulaError: it cannot go on; the ledger does not say so yet (see `give_up`).
    """
    context = EvaluationContext(store, evaluation_id, stopping or threading.Event())
    if not context.begin():
        return
    with contextlib.suppress(EvaluationStopped):
        client = context.patiently(lambda: registry.get(context.view.provider))
        asked_at = context.patiently(
            lambda: endpoint(client, context.view.model, context.view.settings.get("file_format"))
        )
        _ask_all(context, client, asked_at)
    if not context.stopping.is_set():
        context.end()


def give_up(store: Store, evaluation_id: str, error: FabulaError) -> None:
    """Write down that an evaluation has failed, and why. Its answers stay."""
    with store.session() as session:
        one = session.get(Evaluation, evaluation_id)
        if one is not None and one.state in ACTIVE:
            one.state, one.reason, one.finished_at = "failed", sentences(error.what, error.next_step), utcnow()


def _ask_all(context: EvaluationContext, client: Client, asked_at: Endpoint) -> None:
    """Ask for every row that has no answer yet, a few at a time.

    A stop ends the requests that are under way; after an error of one, the answers to the others are waited for.
    """
    view, book = context.view, custom_prices.book(context.store, Settings.from_env().home)
    everything = list(holdout.examples(context.store, view))
    with context.store.reading() as session:
        known = set(
            session.scalars(select(EvaluationAnswer.row_key).where(EvaluationAnswer.evaluation_id == context.id))
        )
    todo = [one for one in everything if one.key not in known]
    cap = _cap(view, everything)
    requester = EvaluationRequester(context, client, book, view, asked_at, cap)
    failed_alike = 0
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="evaluation")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        waiting: set[Future[bool]] = {pool.submit(requester.ask, one) for one in todo}
        while waiting:
            ended, waiting = wait(waiting, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
            for one in ended:
                failed_alike = 0 if one.result() else failed_alike + 1
            if failed_alike >= _ALIKE and not context.view.answered:
                raise FabulaError(
                    msg(
                        "The first {failed_alike} rows all failed: {last_reason}",
                        failed_alike=failed_alike,
                        last_reason=context.last_reason(),
                    ),
                    msg("Fix the problems listed, then retry the missing answers."),
                )
            context.raise_or_halt()


def _cap(view: EvaluationView, found: list[HeldOutExample]) -> int:
    """Tokens that an answer may have."""
    if (given := view.settings.get("max_tokens")) is not None:
        return int(given)
    longest = max((one.expected for one in found), key=len, default="")
    wanted = int(tokens.count([longest], view.model).tokens * _FACTOR)
    return max(_LABEL_TOKENS, min(_MOST_TOKENS, wanted))
