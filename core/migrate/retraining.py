"""The data set, version and old job behind a tuned model of an account, to train it again elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import or_, select

from core.datasets import versions
from core.db.store import Store
from core.db.tables import ArchivedTune
from core.errors import NotFound
from core.finetuning.candidates import TrainingData
from core.finetuning.hyperparameter_translation import AUTO, OldJob
from core.finetuning.job_form import default_validation_share
from core.message import msg
from core.migrate import remote_objects


def data_of(store: Store, archive_id: str, tune: str) -> TrainingData:
    """What a tuned model would be trained on again. If its job had no validation rows, the new job keeps some, because
    both models can be compared on no others.

    Args:
        tune: the id of its job, or its name.

    Raises:
        NotFound: the account has no such model, or there is no data set of it; the message says what to do.
    """
    query = select(ArchivedTune).where(
        ArchivedTune.archive_id == archive_id, or_(ArchivedTune.remote_id == tune, ArchivedTune.model == tune)
    )
    with store.reading() as session:
        found = session.scalars(query.limit(1)).first()
    if found is None:
        raise NotFound(
            msg("This account has no tuned model {name}.", name=repr(tune)),
            msg("`python -m core.migrate status` lists them. Give the name of the model, or the id of its job."),
        )
    if found.dataset_id is None:
        reason = found.reason or msg("It is not archived yet.")
        raise NotFound(msg("There is no data set of {name} to train on.", name=found.model or found.remote_id), reason)
    name, old = short_name(found.model or found.remote_id), _old_job(found)
    if found.version_id is None or versions.get(store, found.version_id).n_validation:
        return TrainingData(found.dataset_id, found.version_id, name, old)
    share = default_validation_share(versions.get(store, found.version_id).n_train)
    return TrainingData(found.dataset_id, None if share else found.version_id, name, old, share or None)


def short_name(model: str) -> str:
    """The part of a tuned model's name that its owner chose, otherwise the whole name.

    >>> short_name("ft:gpt-4o-mini-2024-07-18:acme:intents:9xYz")
    'intents'
    """
    parts = model.split(":")
    return parts[3] if len(parts) > 4 and parts[0] == "ft" and parts[3] else model


def _old_job(tune: ArchivedTune) -> OldJob:
    return OldJob(
        method=tune.method,
        hyperparameters=_used(tune.raw),
        seed=remote_objects.count(tune.raw.get("seed")),
        suffix=remote_objects.text(tune.raw.get("user_provided_suffix"), 64),
    )


def _used(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that a job used. What its method leaves to the provider may be under `hyperparameters`."""
    asked = remote_objects.hyperparameters(raw)
    reported = raw.get("hyperparameters")
    if not isinstance(reported, Mapping):
        return asked
    return {**reported, **{name: value for name, value in asked.items() if value != AUTO or name not in reported}}
