"""The account that a training job was submitted to: a job is followed only there."""

from __future__ import annotations

from dataclasses import asdict

from core.db.tables import TrainingJob
from core.errors import BadRequest, ProviderRemoved
from core.finetuning.job_context import WITHOUT_RESULTS, JobContext
from core.message import msg
from core.providers import Client, Registry, RemoteJob, account
from core.providers.account import Account

LOOK_THERE = msg("The job may still be running there, and be billed: look at the provider's own page for your jobs.")
"""The next step for a job that is not followed any more."""
_AT_ANOTHER = msg("The job is at another account.")


def of(context: JobContext) -> Account:
    """The account that the job was submitted to."""
    with context.store.reading() as session:
        job = session.get_one(TrainingJob, context.job_id, options=WITHOUT_RESULTS)
        return Account(job.submitted_to, job.account)


def connect(context: JobContext, registry: Registry) -> Client:
    """A client for the provider as it is set now, which may have the job.

    Raises:
        ProviderRemoved: the provider was removed; the job may go on there.
        NotFound, EngineMissing: it is not configured.
    """
    try:
        return registry.get(context.view().provider)
    except ProviderRemoved as exc:
        raise ProviderRemoved(exc.what, LOOK_THERE) from exc


def find(context: JobContext, client: Client) -> RemoteJob | None:
    """The job by our id, among the newest of the account; None: it is not there.

    Raises:
        ProviderChanged: it is not there, and was submitted to another account.
    """
    submitted = of(context)
    same = submitted.matches(client.provider)
    try:
        found = client.find_job(context.job_id)
    except BadRequest:
        if same:
            raise
        found = None  # the other server has no jobs at all
    if found is None and not same:
        raise account.changed(client.provider, submitted, _AT_ANOTHER)
    return found


def client_of(context: JobContext, registry: Registry) -> Client:
    """A client for the account that has the job.

    If the provider was edited, the account is asked for the job by our id: it may be the same one, with a new key.

    Raises:
        ProviderChanged: the provider now uses another account.
        ProviderRemoved, NotFound, EngineMissing: see `connect`.
    """
    client, submitted = connect(context, registry), of(context)
    if submitted.matches(client.provider):
        return client
    found = find(context, client)
    if found is None or found.id != context.view().remote_id:
        raise account.changed(client.provider, submitted, _AT_ANOTHER)
    context.update(**asdict(account.of(client.provider)))
    return client
