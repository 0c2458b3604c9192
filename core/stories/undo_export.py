"""Undoes the export of liked stories to a data set."""

from __future__ import annotations

from sqlalchemy import delete, select

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Dataset, DatasetVersion, Evaluation, Row, TrainingJob
from core.errors import FabulaError, NotFound
from core.message import msg


def undo_export(store: Store, actor: Actor, dataset_id: str) -> None:
    """Delete the data set and its rows. The stories are not changed.

    Raises:
        FabulaError: it is in use, or the actor is a viewer. NotFound: it does not exist.
    """
    if actor.role == "viewer":
        raise FabulaError(msg("Visitors cannot change data sets."), msg("Ask an editor to do it."))
    with store.session() as session:
        dataset = session.get(Dataset, dataset_id)
        if dataset is None:
            raise NotFound(msg("This data set no longer exists."), msg("There is nothing to undo."))
        for table in (TrainingJob, DatasetVersion, Evaluation):
            if session.scalar(select(table.id).where(table.dataset_id == dataset_id).limit(1)) is not None:
                raise FabulaError(
                    msg("This data set is used by a training job, a version or an evaluation."),
                    msg("It was not deleted."),
                )
        session.execute(delete(Row).where(Row.dataset_id == dataset_id))
        session.delete(dataset)
