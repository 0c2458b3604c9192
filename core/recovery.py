"""Takes in what rescue files hold (`core.db.rescue_files`): rows, stories, answers and jobs that were paid for while
the database could not be written. A line is booked once, however often it is read; a line that fits nowhere stays in
its file, and the settings page names the file."""

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

from core.actor import Actor
from core.cost import spend
from core.dataset.generation import leases
from core.db import rescue_files
from core.db.rescue_files import Entry
from core.db.store import Store
from core.db.tables import Batch, Evaluation, EvaluationAnswer, RescuedEntry, Row, Spend, Story, TrainingJob, utcnow
from core.errors import StorageFull

_ROW = ("state", "reason", "text", "finish_reason", "prompt_tokens", "completion_tokens")
_log = logging.getLogger("fabula.rescue")


@dataclass(frozen=True, slots=True)
class UnrestoredFile:
    """A rescue file with lines that fit nowhere in this database."""

    path: Path
    lines: int


def restore(store: Store) -> int:
    """Take in every rescue file of this home; how many lines had to stay. Call it before work begins.

    Raises:
        StorageFull: the database cannot be written; nothing is lost, call it again.
    """
    stayed = 0
    for path in rescue_files.files(store.home):
        try:
            left = rescue_files.take(path, lambda entry: _accept(store, entry))
        except StorageFull:
            raise
        except OSError as exc:
            _log.error("%s cannot be read: %s.", path, exc.strerror)
            continue
        stayed += left
        if left:
            _log.error("%d lines of %s fit nowhere in this database. They stay in the file.", left, path)
        else:
            _log.info("Took in everything of %s.", path)
    return stayed


def unrestored_files(home: Path) -> list[UnrestoredFile]:
    """Rescue files that are there now, for the settings page."""
    found = []
    for path in rescue_files.files(home):
        with suppress(OSError):
            found.append(UnrestoredFile(path, rescue_files.count(path)))
    return found


def _accept(store: Store, entry: Entry) -> bool:
    """Book a line and put it where it belongs; False: it fits nowhere."""
    place = _PLACES.get(str(entry.get("kind")))
    if place is None:
        return False
    try:
        with store.session() as session:
            _book(session, entry)
            return place(session, entry)
    except StorageFull:
        raise
    except Exception:  # one odd line must not keep the others, or the worker, from their work
        _log.exception("A line of a rescue file cannot be read.")
        return False


def _book(session: Session, entry: Entry) -> None:
    """Its cost, once: into the line of the spend ledger that was reserved for it, or into a new one."""
    if session.get(RescuedEntry, str(entry["id"])) is not None:
        return
    session.add(RescuedEntry(id=str(entry["id"])))
    said = entry.get("spend")
    if said is None:
        return
    used: dict[str, Any] = {name: said.get(name) for name in ("prompt_tokens", "completion_tokens")}
    used["counted_completion_tokens"] = said.get("counted_completion_tokens")
    used["cost_usd"] = _usd(said.get("cost_usd"))
    reserved = session.get(Spend, said["id"]) if said.get("id") is not None else None
    if reserved is not None and (reserved.reference, reserved.provider) == (said["reference"], said["provider"]):
        spend.settle(session, reserved.id, **used)
        return
    estimated = _usd(said.get("estimated_usd"))
    if used["cost_usd"] == 0 and not said.get("completion_tokens"):
        return  # it was refused
    if all(used[name] is None for name in used if name != "cost_usd"):  # else it would be a reservation
        estimated, used["cost_usd"] = used["cost_usd"] or estimated, None
    spend.record(
        session, Actor(id=said["actor"], name=said["actor"], role="editor"), said["page"], provider=said["provider"],
        model=said["model"], reference=said["reference"], estimated_usd=estimated, **used,
    )  # fmt: skip


def _place_row(session: Session, entry: Entry) -> bool:
    """A text that is there already, or one that a row still waits for. Another text in its place is left there.

    So is a row that another living executor has claimed: its answer is on the way, and is paid for too.
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
    """Whether a living executor has sent this row, and not the one that wrote the entry."""
    if row.claimed_by in (None, entry.get("claimed_by")):
        return False
    return not leases.expired(session, [row.claimed_by])


def _place_story(session: Session, entry: Entry) -> bool:
    values = entry["values"]
    row = session.get(Story, entry["story_id"])
    if row is None:
        session.add(Story(id=entry["story_id"], **_story(values)))
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


def _place_answer(session: Session, entry: Entry) -> bool:
    values = entry["values"]
    there = select(EvaluationAnswer).where(
        EvaluationAnswer.evaluation_id == values["evaluation_id"], EvaluationAnswer.row_key == values["row_key"]
    )
    if (answer := session.scalar(there)) is not None:
        if answer.text is None:
            answer.text, answer.finish_reason, answer.right = values["text"], values["finish_reason"], values["right"]
            answer.reason = values["reason"]
        return bool(answer.text == values["text"])
    if session.get(Evaluation, values["evaluation_id"]) is None:
        return False
    session.add(EvaluationAnswer(**values))
    return True


def _place_job(session: Session, entry: Entry) -> bool:
    job = session.get(TrainingJob, entry["job_id"])
    if job is not None and job.remote_id is None:
        job.remote_id, job.status = entry["remote_id"], entry["status"]
        job.finished_at = job.error = job.next_step = None
    return job is not None and job.remote_id == entry["remote_id"]


def _place_batch(session: Session, entry: Entry) -> bool:
    batch = session.get(Batch, entry["batch_id"])
    if batch is not None and batch.remote_id is None and batch.state in ("preparing", "submitting"):
        batch.remote_id, batch.status, batch.state = entry["remote_id"], entry["status"], "waiting"
        batch.input_file = entry["input_file"]
    return batch is not None and batch.remote_id == entry["remote_id"]


def _usd(amount: object) -> Decimal | None:
    return None if amount is None else Decimal(str(amount))


_PLACES: Mapping[str, Callable[[Session, Entry], bool]] = {
    "row": _place_row,
    "story": _place_story,
    "answer": _place_answer,
    "job": _place_job,
    "batch": _place_batch,
    "spend": lambda session, entry: True,
}
