"""A person's hand on single rows: left out, put back, edited. Nothing is lost by any of it.

A row that is left out remembers what it was, an edited one what the model wrote. Every action may be repeated: the
second time changes nothing. Rows that are on their way are left alone, so that an answer never meets a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.dataset.generation.response_classification import storable
from core.db.store import Store, in_chunks
from core.db.tables import Row, utcnow
from core.errors import FabulaError, NotFound
from core.message import Message, msg

MOST_CHARACTERS = 100_000  # of one text, as in a file that is read: longer than any model trains on
BY_HAND = msg("Left out by hand.")
_HAD_FAILED, _LEFT_OUT = "It had failed: ", " Left out: "  # in reasons that earlier versions stored as text
_EMPTY = msg("The completion is empty.")


def exclude(store: Store, actor: Actor, row_ids: Sequence[int], reason: str) -> tuple[int, ...]:
    """Leave rows out of training and export; the ids of those that this call changed, for an undo.

    Rows that are out already, or on their way, stay as they are. Text, figures and cost are kept, and so is why a
    failed row had failed.

    Args:
        reason: a sentence for people, ending in a full stop.
    """
    why = storable(reason if isinstance(reason, Message) else reason.strip()) or BY_HAND
    changed: list[int] = []
    for part in _parts(row_ids):
        with store.session() as session:
            here = select(Row.id, Row.reason).where(Row.id.in_(part), Row.state.not_in(("excluded", "sent")))
            found = session.execute(here.order_by(Row.id).with_for_update()).all()
            for was in {was for _, was in found}:
                out = msg("It had failed: {was} Left out: {why}", was=was, why=why) if was else why
                these = update(Row).where(Row.id.in_([id_ for id_, had in found if had == was]))
                before = func.coalesce(Row.state_before, Row.state)  # an edited row that had failed remembers that
                values = {"state": "excluded", "state_before": before, "reason": out, "updated_at": utcnow()}
                session.execute(these.values(values))
            changed += [id_ for id_, _ in found]
    return tuple(changed)


def restore(store: Store, actor: Actor, row_ids: Sequence[int]) -> tuple[int, ...]:
    """Put rows back as they were before they were left out; the ids of those that this call changed.

    A row that came from a file without a completion has nothing to go back to: give it a text first.
    """
    changed: list[int] = []
    for part in _parts(row_ids):
        with store.session() as session:
            out = select(Row).where(Row.id.in_(part), Row.state == "excluded").order_by(Row.id).with_for_update()
            for row in session.scalars(out):
                if row.state_before is not None or (row.text or "").strip():
                    row.reason = _reason_before(row.reason)
                    row.state, row.state_before = _state_before(row)
                    row.updated_at = utcnow()
                    changed.append(row.id)
    return tuple(changed)


def edit(store: Store, actor: Actor, row_id: int, text: str) -> bool:
    """Put a person's words in place of the model's, which are kept. Whether anything changed.

    A failed row with a new text is a finished one. The model's own words again make the row unedited.

    Raises:
        NotFound: no such row.
        FabulaError: the row is not written yet, or on its way; or the text is empty or too long.
    """
    text = storable(text)
    with store.session() as session:
        row = _editable(session, row_id)
        if text == (row.text or ""):
            return False
        if not text.strip():
            raise FabulaError(msg("A model learns nothing from a row without text."), msg("Leave the row out instead."))
        if len(text) > MOST_CHARACTERS:
            raise FabulaError(
                msg("The text is longer than {value} characters.", value=f"{MOST_CHARACTERS:,}"), msg("Shorten it.")
            )
        if row.original_text is not None and text == row.original_text:
            return _revert(row)
        if row.original_text is None:
            row.original_text = row.text or ""
            if row.state == "failed":
                row.state, row.state_before = "done", "failed"
        row.text, row.updated_at = text, utcnow()
        return True


def revert(store: Store, actor: Actor, row_id: int) -> bool:
    """The model's words again in place of a person's. Whether there was anything to take back.

    Raises:
        NotFound: no such row.
    """
    with store.session() as session:
        return _revert(_row(session, row_id))


def _editable(session: Session, row_id: int) -> Row:
    row = _row(session, row_id)
    if row.state == "sent":
        raise FabulaError(
            msg("This row is being written."), msg("Wait until the row is written, or stop the run first.")
        )
    if "pending" in (row.state, row.state_before):
        raise FabulaError(msg("This row is not written yet."), msg("Write the story first, then edit it."))
    return row


def _row(session: Session, row_id: int) -> Row:
    row = session.get(Row, row_id, with_for_update=True)
    if row is None:
        raise NotFound(msg("This row no longer exists."), msg("Refresh the list."))
    return row


def _revert(row: Row) -> bool:
    if row.original_text is None:
        return False
    row.text, row.original_text, row.updated_at = row.original_text, None, utcnow()
    if not row.text.strip() and row.state_before != "failed":  # it came empty, from a file
        row.state, row.state_before, row.reason = "excluded", None, _EMPTY
    elif row.state != "excluded":
        row.state, row.state_before = row.state_before or "done", None
    return True


def _state_before(row: Row) -> tuple[str, str | None]:
    """State of a row that is put back, and what it still has to remember: an edited one that it had failed."""
    if row.original_text is None:
        return row.state_before or "done", None
    return "done", "failed" if row.state_before == "failed" else None


def _reason_before(reason: str | None) -> str | None:
    if isinstance(reason, Message):
        was = reason.params.get("was")
        return was if isinstance(was, str) else None
    if reason is None or not reason.startswith(_HAD_FAILED) or _LEFT_OUT not in reason:
        return None
    return reason.removeprefix(_HAD_FAILED).rpartition(_LEFT_OUT)[0]


def _parts(row_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return in_chunks(sorted(set(row_ids)))  # in one order, so that two people never wait for each other
