"""The data set that was made of the liked stories, taken back."""

from __future__ import annotations

from sqlalchemy import delete, select

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Dataset, DatasetVersion, Evaluation, Row, TrainingJob
from core.errors import FabulaError, NotFound
from core.message import msg


def undo_export(store: Store, actor: Actor, dataset_id: str) -> None:
    """Delete the data set again, its rows with it; the stories stay as they are.

    Raises:
        FabulaError: something was made from it, or the actor may only look. NotFound: it is not there (any more).
    """
    if actor.role == "viewer":
        raise FabulaError(msg("Visitors cannot change data sets."), msg("Ask an editor to do it."))
    with store.session() as session:
        made = session.get(Dataset, dataset_id)
        if made is None:
            raise NotFound(msg("This data set no longer exists."), msg("There is nothing to undo."))
        for table in (TrainingJob, DatasetVersion, Evaluation):
            if session.scalar(select(table.id).where(table.dataset_id == dataset_id).limit(1)) is not None:
                raise FabulaError(msg("This data set is already used by something made from it."), msg("It is kept."))
        session.execute(delete(Row).where(Row.dataset_id == dataset_id))
        session.delete(made)
