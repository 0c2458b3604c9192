"""Explains why a model rejected a request: retired models and replacements, prompts that are too long, filters."""

from __future__ import annotations

import re
from datetime import date, datetime

from sqlalchemy import select

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Story, utcnow
from core.errors import BadRequest, FabulaError, ModelNotFound, PromptTooLong
from core.message import msg, with_cause
from core.pricing import stopped_models
from core.pricing.price_book import PriceBook
from core.pricing.prices import tuned_base
from core.providers import Provider

_TOO_LONG = re.compile(
    r"context.{0,40}(length|window|size)|maximum.{0,20}(context|prompt)|too many tokens|prompt is too long", re.I | re.S
)
_FILTERED = re.compile(r"content.{0,3}(filter|policy|management)|responsible ?ai|safety system", re.I)


def explain(
    store: Store,
    book: PriceBook,
    provider: Provider,
    model: str,
    error: FabulaError,
    today: date | None = None,
    *,
    reader: Actor | None = None,
) -> FabulaError:
    """`error`, or a more detailed error of the same kind with `error` as its cause.

    Args:
        today: UTC; default: the current day.
        reader: who reads the error; only models that they may use are suggested.
    """
    explained: FabulaError | None = None
    if isinstance(error, ModelNotFound):
        day = today or utcnow().date()
        stopped = stopped_models.explained(store, book, provider.id, model, error, day, reader=reader)
        if stopped is not error:
            return stopped
        explained = ModelNotFound(_model_missing(store, provider, model), _suggestion(store, book, model, day, reader))
    elif isinstance(error, BadRequest) and _TOO_LONG.search(error.what):
        explained = PromptTooLong(
            msg("The prompt is longer than the context of {model}: {what}", model=model, what=error.what),
            msg("Shorten the prompt, or allow fewer tokens in one story under More."),
            may_be_billed=error.may_be_billed,
        )
    elif isinstance(error, BadRequest) and _FILTERED.search(error.what):
        explained = BadRequest(
            with_cause(
                msg("The content filter of {name} blocked the prompt: {what}", name=provider.name, what=error.what),
                "content_filter",
            ),
            msg("Rephrase the prompt, or choose another model."),
            may_be_billed=error.may_be_billed,
        )
    if explained is None:
        return error
    explained.__cause__ = error
    return explained


def _model_missing(store: Store, provider: Provider, model: str) -> str:
    """When it was last used."""
    last_used = _last_used(store, provider, model)
    if last_used is not None:
        return msg(
            "{name} no longer has {model}; it was last used here on {last_used} UTC.",
            name=provider.name,
            model=model,
            last_used=f"{last_used:%Y-%m-%d %H:%M}",
        )
    return msg("{name} does not have {model}, and it has never been used here.", name=provider.name, model=model)


def _last_used(store: Store, provider: Provider, model: str) -> datetime | None:
    query = (
        select(Story.created_at)
        .where(Story.provider == provider.id, (Story.model == model) | (Story.requested_model == model))
        .order_by(Story.created_at.desc())
        .limit(1)
    )
    with store.reading() as session:
        return session.scalar(query)


def _suggestion(store: Store, book: PriceBook, model: str, today: date, reader: Actor | None) -> str:
    """Suggest the newest model trained on the same data set, otherwise the base model."""
    with store.reading() as session:
        other = stopped_models.successor(session, book, model, today, reader)
        job = stopped_models.job_of(session, model)
    if other is not None:
        return msg("Use {replacement}, which was trained on the same data set.", replacement=other)
    if job is not None:
        return msg(
            "Use {base_model}, its base, or train on its data set again: the rows and settings are kept.",
            base_model=job.base_model,
        )
    if (base := tuned_base(model)) is not None:
        return msg("Use {base}, its base; tuned models disappear when their base is retired.", base=base)
    return msg("Choose another model from the list.")
