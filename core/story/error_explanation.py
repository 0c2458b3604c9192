"""Why a model would not write, said in full: since when it is gone, what to use in its place, what to make shorter."""

from __future__ import annotations

import re
from datetime import datetime

from sqlalchemy import select

from core.cost.price_book import PriceBook
from core.cost.prices import tuned_base
from core.db.store import Store
from core.db.tables import Story, TrainingJob
from core.errors import BadRequest, FabulaError, ModelNotFound, PromptTooLong
from core.message import msg
from core.providers import Provider

_TOO_LONG = re.compile(
    r"context.{0,40}(length|window|size)|maximum.{0,20}(context|prompt)|too many tokens|prompt is too long", re.I | re.S
)
_FILTERED = re.compile(r"content.{0,3}(filter|policy|management)|responsible ?ai|safety system", re.I)


def explain(store: Store, book: PriceBook, provider: Provider, model: str, error: FabulaError) -> FabulaError:
    """`error`, or a fuller one of the same kind with it as its cause."""
    fuller: FabulaError | None = None
    if isinstance(error, ModelNotFound):
        fuller = gone(store, book, provider, model)
    elif isinstance(error, BadRequest) and _TOO_LONG.search(error.what):
        fuller = PromptTooLong(
            msg("The prompt is longer than {model} can read at once: {what}", model=model, what=error.what),
            msg("Shorten the prompt, or allow fewer tokens in one story under More."),
        )
    elif isinstance(error, BadRequest) and _FILTERED.search(error.what):
        fuller = BadRequest(
            msg("The content filter of {name} blocked the prompt: {what}", name=provider.name, what=error.what),
            msg("Rephrase the prompt, or choose another model."),
        )
    if fuller is None:
        return error
    fuller.__cause__ = error
    return fuller


def gone(store: Store, book: PriceBook, provider: Provider, model: str) -> ModelNotFound:
    """That a model does not exist (any more): since when, as far as that is known, and what to use in its place."""
    base = tuned_base(model)
    return ModelNotFound(_since(store, book, provider, model, base), _instead(store, provider, model, base))


def _since(store: Store, book: PriceBook, provider: Provider, model: str, base: str | None) -> str:
    for name in (model, base):
        price = None if name is None else book.find(provider.id, name)
        if price is not None and price.valid_until is not None and book.ended(price):
            return msg(
                "{name} no longer has {model}: {other} was retired after {valid_until}.",
                name=provider.name,
                model=model,
                other=name,
                valid_until=f"{price.valid_until:%Y-%m-%d}",
            )
    seen = _last_seen(store, provider, model)
    if seen is not None:
        return msg(
            "{name} no longer has {model}; it last wrote here on {seen} UTC.",
            name=provider.name,
            model=model,
            seen=f"{seen:%Y-%m-%d %H:%M}",
        )
    return msg("{name} does not have {model}, and it has never written here.", name=provider.name, model=model)


def _last_seen(store: Store, provider: Provider, model: str) -> datetime | None:
    query = (
        select(Story.at)
        .where(Story.provider == provider.id, (Story.model == model) | (Story.asked_model == model))
        .order_by(Story.at.desc())
        .limit(1)
    )
    with store.reading() as session:
        return session.scalar(query)


def _instead(store: Store, provider: Provider, model: str, base: str | None) -> str:
    """The newest model from the same data set, else its base."""
    with store.reading() as session:
        made = model.split(":ckpt-step-")[0]
        job = session.scalar(select(TrainingJob).where(TrainingJob.fine_tuned_model == made).limit(1))
        other = None
        if job is not None and job.dataset_id is not None:
            other = session.scalar(
                select(TrainingJob.fine_tuned_model)
                .where(
                    TrainingJob.dataset_id == job.dataset_id,
                    TrainingJob.fine_tuned_model.is_not(None),
                    TrainingJob.fine_tuned_model != made,
                )
                .order_by(TrainingJob.created_at.desc())
                .limit(1)
            )
    if other is not None:
        return msg("Use {other}, which learned from the same data set.", other=other)
    if job is not None:
        return msg(
            "Use {base_model}, its base, or train on its data set again: the rows and settings are kept.",
            base_model=job.base_model,
        )
    if base is not None:
        return msg("Use {base}, its base; tuned models disappear when their base is retired.", base=base)
    return msg("Choose another model from the list.")
