"""The account that has a batch: a batch is asked for and collected only there, or given up when a person says so."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Select, select

from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import Batch, Run, utcnow
from core.errors import BadRequest
from core.generation import run_store
from core.generation.batch import batch_store
from core.generation.batch.batch_store import BatchView
from core.message import msg
from core.ownership import edits
from core.providers import Client, Registry, account

_GIVEN_UP = msg("You gave up this batch: it is at another account of the provider.")


def client_of(store: Store, registry: Registry, batch: BatchView) -> Client:
    """A client for the account that has the batch.

    If the provider was edited, the account is asked for the batch by our id: it may be the same one, with a new key.
    That costs nothing.

    Raises:
        ProviderRemoved: its provider was removed.
        ProviderChanged: its provider now uses another account. The batch is marked as stranded.
    """
    client = registry.get(batch.provider)
    if batch.submitted.matches(client.provider):
        if batch.stranded:
            batch_store.update_batch(store, batch.id, stranded_at=None)
        return client
    try:
        found = client.find_batch(batch.id)
    except BadRequest:  # it has no batches at all
        found = None
    if found is None or batch.remote_id not in (None, found.id):
        if not batch.stranded:
            batch_store.update_batch(store, batch.id, stranded_at=utcnow())
        rows = msg("A batch of {rows} rows is at another account.", rows=f"{batch.total:,}")
        raise account.changed(client.provider, batch.submitted, rows)
    batch_store.update_batch(store, batch.id, stranded_at=None, **asdict(account.of(client.provider)))
    return client


def stranded_rows(store: Store, dataset_id: str) -> int:
    """The number of rows in batches that their provider, as it is set now, does not have."""
    with store.reading() as session:
        return sum(batch.total for batch in session.scalars(_stranded(dataset_id)))


@requires("editor")
@edits(run="run_id")
def give_up(store: Store, actor: Actor, run_id: str) -> None:
    """Give up the stranded batches of the run's data set: their rows are pending again, to be written and paid again.

    What the batches cost is unknown from then on, and counts at its maximum.

    Raises:
        NotFound: no such run.
    """
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        for batch in session.scalars(_stranded(run.dataset_id).with_for_update(of=Batch)).all():
            batch_store.close(session, batch.id, "failed", lambda prompt: None, _GIVEN_UP, unknown=True)


def _stranded(dataset_id: str) -> Select[Batch]:
    of_dataset = select(Batch).join(Run, Run.id == Batch.run_id).where(Run.dataset_id == dataset_id)
    return of_dataset.where(Batch.stranded_at.is_not(None), Batch.state.not_in(batch_store.OVER))
