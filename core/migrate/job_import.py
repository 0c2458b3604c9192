"""Makes a job of the ledger from an archived job: its settings, curve, events and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.store import new_id
from core.db.tables import AccountArchive, ArchivedFile, ArchivedTune, TrainingJob, utcnow
from core.failures import with_job_cause
from core.finetuning import job_events
from core.finetuning.checkpoints import add_checkpoints
from core.finetuning.results import plain_text
from core.message import msg
from core.migrate import remote_objects, sources
from core.migrate.workspace import Workspace
from core.providers import RemoteCheckpoint, RemoteEvent
from core.providers.metric_parser import metrics
from core.sanitize import storable

_MAX_RESULTS_BYTES = 64_000_000  # a results file of a million steps; a larger one stays in the archive only
_MAX_JOB_NAME = 190


def find(session: Session, account: AccountArchive, tune: ArchivedTune) -> str | None:
    """The job if the ledger has it, because it was submitted from here or archived from elsewhere."""
    same = [TrainingJob.remote_id == tune.remote_id]
    if account.provider == sources.FOLDER:  # the downloads of an account that may be archived here already
        same.append(TrainingJob.fine_tuned_model == tune.model)
    else:
        same.append(TrainingJob.account == account.account)
    return session.scalar(select(TrainingJob.id).where(*same).limit(1))


def make(
    session: Session,
    workspace: Workspace,
    account: AccountArchive,
    tune: ArchivedTune,
    files: Mapping[str, ArchivedFile],
) -> str:
    """Add the job to the ledger. Returns its id."""
    error = remote_objects.error_of(tune.raw) if tune.status == "failed" else None
    parent = select(TrainingJob.id).where(TrainingJob.fine_tuned_model == tune.base_model).limit(1)
    training = files.get(tune.training_file or "")
    job = TrainingJob(
        id=new_id(),
        dataset_id=tune.dataset_id,
        version_id=tune.version_id,
        name=(tune.model or tune.remote_id)[:_MAX_JOB_NAME],
        provider=_provider(account, tune),
        base_model=tune.base_model,
        suffix=remote_objects.text(tune.raw.get("user_provided_suffix"), 64),
        hyperparameters=remote_objects.hyperparameters(tune.raw),
        seed=_seed(tune.raw.get("seed")),
        method="dpo" if tune.method == "dpo" else "supervised",
        file_format="chat",
        file_sha256=None if training is None else training.sha256,
        file_bytes=None if training is None else training.stored_bytes,
        training_file=tune.training_file,
        validation_file=tune.validation_file,
        parent_id=session.scalar(parent) if tune.base_model.startswith("ft:") else None,
        status=tune.status,
        remote_id=tune.remote_id,
        submitted_to=account.base_url,
        account=account.account,
        fine_tuned_model=tune.model,
        error=None if error is None else with_job_cause(error),
        trained_tokens=tune.trained_tokens,
        n_examples=tune.trained_rows,
        results_csv=_results(workspace, tune, files),
        created_at=tune.created_at or utcnow(),
        finished_at=tune.finished_at or tune.created_at or utcnow(),
        created_by=account.created_by,
        sharing="private",  # its model can repeat the rows
    )
    session.add(job)
    session.flush()
    job_events.add(session, job.id, _events(workspace.read_lines(tune.remote_id, "events.jsonl")))
    add_checkpoints(session, job.id, _checkpoints(workspace.read_lines(tune.remote_id, "checkpoints.jsonl")))
    origin = msg("Archived from {name}: job {job}.", name=account.name, job=tune.remote_id)
    job_events.add_notice(session, job.id, origin)
    return job.id


def _provider(account: AccountArchive, tune: ArchivedTune) -> str:
    """The id of the provider that the job ran at: for a folder, the one that its record names."""
    if account.provider not in ("", sources.FOLDER):
        return account.provider
    return remote_objects.text(tune.raw.get("provider"), 50) or "openai"


def _results(workspace: Workspace, tune: ArchivedTune, files: Mapping[str, ArchivedFile]) -> str | None:
    """The curve as plain CSV, also where the file is base64."""
    for file_id in tune.result_files:
        file = files[file_id]
        if file.state == "stored" and (file.stored_bytes or 0) <= _MAX_RESULTS_BYTES:
            data = workspace.file(file_id).read_bytes()
            return storable(plain_text(data.decode("utf-8-sig", "replace")))
    return None


def _seed(value: object) -> int | None:
    number = remote_objects.count(value)
    return None if number is None or number >= 2**31 else number


def _events(objects: Iterable[Mapping[str, Any]]) -> list[RemoteEvent]:
    """Events in the ledger's form; an event without a time or an id stays in the archive only."""
    found = []
    for one in objects:
        at, event_id = remote_objects.moment(one.get("created_at")), remote_objects.text(one.get("id"), 200)
        if at is not None and event_id is not None:
            words = {name: remote_objects.text(one.get(name), 2_000) or "" for name in ("level", "message", "type")}
            data = one.get("data")
            found.append(
                RemoteEvent(
                    id=event_id,
                    at=at,
                    level=words["level"] or "info",
                    message=words["message"],
                    type=words["type"] or "message",
                    data=data if isinstance(data, Mapping) else {},
                )
            )
    return found


def _checkpoints(objects: Iterable[Mapping[str, Any]]) -> list[RemoteCheckpoint]:
    found = []
    for one in objects:
        step = remote_objects.count(one.get("step_number"))
        checkpoint_id = remote_objects.text(one.get("id"), 200)
        model = remote_objects.text(one.get("fine_tuned_model_checkpoint"), 200)
        if step is not None and checkpoint_id is not None and model is not None:
            measured = one.get("metrics")
            found.append(
                RemoteCheckpoint(
                    id=checkpoint_id,
                    step=step,
                    model=model,
                    created_at=remote_objects.moment(one.get("created_at")),
                    metrics=metrics(measured) if isinstance(measured, Mapping) else {},
                )
            )
    return found
