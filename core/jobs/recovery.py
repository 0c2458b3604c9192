"""Restores the entries of rescue files (`core.db.rescue_files`): rows, stories, answers and jobs that were paid for
while the database could not be written. Each line is recorded once, even if it is read several times. A line that
matches nothing in this database stays in its file, and the settings page names the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import on_behalf_of
from core.db import leases, rescue_files
from core.db.rescue_files import Entry
from core.db.store import Store
from core.db.tables import Batch, Evaluation, EvaluationAnswer, RescuedEntry, Row, Spend, Story, TrainingJob, utcnow
from core.errors import StorageFull
from core.pricing import spend
from core.stories import story_record

_ROW = ("state", "reason", "text", "finish_reason", "prompt_tokens", "completion_tokens")
_log = logging.getLogger("fabula.rescue")


@dataclass(frozen=True, slots=True)
class UnrestoredFile:
    """A rescue file with lines that match nothing in this database."""

    path: Path
    lines: int


def restore(store: Store) -> int:
    """Restore all rescue files in this home directory; return the number of lines that could not be restored. Call this
    before starting work.

    Raises:
        StorageFull: the database cannot be written. Nothing is lost; call it again.
    """
    unrestored = 0
    for path in rescue_files.files(store.home):
        try:
            remaining = rescue_files.consume(path, lambda entry: _restore_entry(store, entry))
        except StorageFull:
            raise
        except OSError as exc:
            _log.error("%s cannot be read: %s.", path, exc.strerror)
            continue
        unrestored += remaining
        if remaining:
            _log.error("%d lines of %s match nothing in this database. They stay in the file.", remaining, path)
        else:
            _log.info("Restored everything from %s.", path)
    return unrestored


def unrestored_files(home: Path) -> list[UnrestoredFile]:
    """Rescue files that still exist, for the settings page."""
    unrestored = []
    for path in rescue_files.files(home):
        with suppress(OSError):
            unrestored.append(UnrestoredFile(path, rescue_files.count(path)))
    return unrestored


def _restore_entry(store: Store, entry: Entry) -> bool:
    """Record an entry's cost and restore it; return False if it matches nothing in this database."""
    restore_kind = _RESTORERS.get(str(entry.get("kind")))
    if restore_kind is None:
        return False
    try:
        with store.session() as session:
            _book_cost(session, entry)
            return restore_kind(session, entry)
    except StorageFull:
        raise
    except Exception:  # a malformed line must not block the others or the worker
        _log.exception("A line of a rescue file cannot be read.")
        return False


def _book_cost(session: Session, entry: Entry) -> None:
    """Record the entry's cost once, in its reserved line in the spend ledger or in a new one."""
    if session.get(RescuedEntry, str(entry["id"])) is not None:
        return
    session.add(RescuedEntry(id=str(entry["id"])))
    charge = entry.get("spend")
    if charge is None:
        return
    usage: dict[str, Any] = {name: charge.get(name) for name in ("prompt_tokens", "completion_tokens")}
    usage["counted_completion_tokens"] = charge.get("counted_completion_tokens")
    usage["cost_usd"] = _usd(charge.get("cost_usd"))
    reserved = session.get(Spend, charge["id"]) if charge.get("id") is not None else None
    if reserved is not None and (reserved.reference, reserved.provider) == (charge["reference"], charge["provider"]):
        spend.settle(session, reserved.id, **usage)
        return
    estimated = _usd(charge.get("estimated_usd"))
    if usage["cost_usd"] == 0 and not charge.get("completion_tokens"):
        return  # the provider rejected the request
    # without usage or cost, the line would look like a reservation
    if all(usage[name] is None for name in usage if name != "cost_usd"):
        estimated, usage["cost_usd"] = usage["cost_usd"] or estimated, None
    actor = on_behalf_of(charge["actor"])
    spend.record(
        session, actor, charge["page"], provider=charge["provider"],
        model=charge["model"], reference=charge["reference"], estimated_usd=estimated, **usage,
    )  # fmt: skip


def _restore_row(session: Session, entry: Entry) -> bool:
    """Restore a row's text if the row still needs one; also return True if it already has this text.

    A row with a different text is left unchanged. So is a row claimed by another live executor, whose pending response
    is also paid for.
    """
    same = (Row.dataset_id == entry["dataset_id"], Row.key == entry["key"])
    row = session.scalar(select(Row).where(*same).with_for_update())
    if row is None or row.batch_id is not None:
        return False
    if (row.state, row.text) == (entry["state"], entry["text"]):
        return True
    better = row.state == "failed" and (not row.text or entry["state"] == "done")
    if row.state not in ("sent", "pending") and not better:
        return False
    if row.state == "sent" and _claimed_by_another(session, row, entry):
        return False
    for name in _ROW:
        setattr(row, name, entry[name])
    row.cost_usd, row.run_id = _usd(entry["cost_usd"]), row.run_id or entry["run_id"]
    row.claimed_by, row.updated_at = None, utcnow()
    return True


def _claimed_by_another(session: Session, row: Row, entry: Entry) -> bool:
    """Whether a live executor other than the one that wrote the entry has claimed this row."""
    if row.claimed_by in (None, entry.get("claimed_by")):
        return False
    return not leases.dead_claimants(session, [row.claimed_by])


def _restore_story(session: Session, entry: Entry) -> bool:
    values = entry["values"]
    row = session.get(Story, entry["story_id"])
    if row is None:
        story_record.add_row(session, entry["story_id"], _story(values))
        return True
    if row.text.startswith(values["text"]):
        return True
    if not values["text"].startswith(row.text):
        return False
    for name, value in _story(values).items():
        setattr(row, name, value)
    return True


def _story(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "cost_usd": _usd(values.get("cost_usd"))}


def _restore_answer(session: Session, entry: Entry) -> bool:
    values = entry["values"]
    query = select(EvaluationAnswer).where(
        EvaluationAnswer.evaluation_id == values["evaluation_id"], EvaluationAnswer.row_key == values["row_key"]
    )
    if (answer := session.scalar(query)) is not None:
        if answer.text is None:
            answer.text, answer.finish_reason, answer.correct = (
                values["text"],
                values["finish_reason"],
                values["correct"],
            )
            answer.reason = values["reason"]
            for name in ("seconds", "prompt_tokens", "completion_tokens"):  # entries of earlier versions have none
                setattr(answer, name, values.get(name))
        return bool(answer.text == values["text"])
    if session.get(Evaluation, values["evaluation_id"]) is None:
        return False
    session.add(EvaluationAnswer(**values))
    return True


def _restore_job(session: Session, entry: Entry) -> bool:
    job = session.get(TrainingJob, entry["job_id"])
    if job is not None and job.remote_id is None:
        job.remote_id, job.status = entry["remote_id"], entry["status"]
        job.finished_at = job.error = job.next_step = None
    return job is not None and job.remote_id == entry["remote_id"]


def _restore_batch(session: Session, entry: Entry) -> bool:
    batch = session.get(Batch, entry["batch_id"])
    if batch is not None and batch.remote_id is None and batch.state in ("preparing", "submitting"):
        batch.remote_id, batch.remote_status, batch.state = entry["remote_id"], entry["remote_status"], "waiting"
        batch.input_file_id = entry["input_file_id"]
    return batch is not None and batch.remote_id == entry["remote_id"]


def _usd(amount: object) -> Decimal | None:
    return None if amount is None else Decimal(str(amount))


_RESTORERS: Mapping[str, Callable[[Session, Entry], bool]] = {
    "row": _restore_row,
    "story": _restore_story,
    "answer": _restore_answer,
    "job": _restore_job,
    "batch": _restore_batch,
    "spend": lambda session, entry: True,
}
