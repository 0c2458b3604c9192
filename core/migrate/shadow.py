"""Shadow: programs keep the old model's answers, and a share of their calls is answered by the new model too.

What a person does here is carried out by the engine (`core.providers.engine_shadows`); `shadow_worker` collects the
calls, compares the answers, and flips the alias when enough of them agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db import audit_log
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import AliasChange, ModelShadow, ShadowPair, utcnow
from core.errors import ChangedMeanwhile, Misconfigured, NotFound
from core.message import msg
from core.parity import agreement
from core.parity.agreement import Agreement
from core.providers import Registry, engine_aliases, engine_shadows
from core.providers.registry import ENGINE

KEPT_PAIRS = 1_000
"""Pairs of answers that a comparison keeps, the newest."""
KEPT_DAYS = 30
_WORST = 20


@dataclass(frozen=True, slots=True)
class ShadowForm:
    """What a person sets.

    Attributes:
        share: per cent of the calls that are copied, 0 to 100.
        threshold: agreement at whose lower bound the alias flips by itself, 0 to 1; None: never.
        min_calls: not before so many calls were compared.
        fallback: whether the new model answers once the old one has stopped.
    """

    alias: str
    model: str
    provider: str
    share: int = 20
    threshold: float | None = None
    min_calls: int = 100
    fallback: bool = True


@dataclass(frozen=True, slots=True)
class PairView:
    """Both answers to a call."""

    prompt: str
    old: str
    new: str | None
    score: float
    error: str


@dataclass(frozen=True, slots=True)
class ShadowView:
    """A comparison and its counts. `old_s`, `new_s`: mean seconds of the pairs that are kept; None without any."""

    id: str
    form: ShadowForm
    state: str
    reason: str | None
    note: str | None
    relayed: int
    failed: int
    dropped: int
    agreement: Agreement
    pairs: int
    old_s: float | None
    new_s: float | None
    created_at: datetime
    created_by: str
    ended_at: datetime | None


def newest(store: Store, alias: str) -> ShadowView | None:
    """The newest comparison of an old model; None if there was none."""
    query = select(ModelShadow).where(ModelShadow.alias == alias).order_by(ModelShadow.created_at.desc()).limit(1)
    with store.reading() as session:
        row = session.scalar(query)
        return None if row is None else _view(session, row)


def worst_pairs(store: Store, shadow_id: str, limit: int = _WORST) -> list[PairView]:
    """The calls whose answers differ, worst first, the newest first among equals."""
    differ = (ShadowPair.shadow_id == shadow_id, ShadowPair.score < 1)
    query = select(ShadowPair).where(*differ).order_by(ShadowPair.score, ShadowPair.id.desc()).limit(limit)
    with store.reading() as session:
        return [
            PairView(agreement.last_message(one.prompt), one.old, one.new, one.score, one.error)
            for one in session.scalars(query)
        ]


@requires("admin")
def start(store: Store, actor: Actor, registry: Registry, form: ShadowForm) -> str:
    """Let the engine relay the calls for an old model, and copy a share of them. Returns the comparison's id.

    An alias of this name is removed: from now on the old model answers again.

    Raises:
        ChangedMeanwhile: someone else has started it.
        Misconfigured: the old model's provider has another API.
        ModelNotFound: the new model is not on the engine.
    """
    provider = registry.provider(form.provider)
    if provider.capabilities.has_resource_address or provider.capabilities.engine_api:
        raise Misconfigured(
            msg("{name} has another API than OpenAI, so the engine can't relay calls to it.", name=provider.name),
            msg("Switch without a comparison on calls, or compare both models under Training → Evaluation."),
        )
    client, shadow_id = registry.get(ENGINE), new_id()
    with store.session() as session:
        advisory_lock(session, "model_shadows")
        open_ones = select(ModelShadow.id).where(ModelShadow.alias == form.alias, ModelShadow.state == "on")
        if session.scalar(open_ones) is not None:
            raise ChangedMeanwhile(msg("Someone else has just started this comparison."), msg("Nothing was changed."))
        session.add(_row(shadow_id, actor, form))
    before = next((one.model for one in engine_aliases.listed(client) if one.id == form.alias), None)
    try:
        engine_shadows.save(
            client, provider, alias=form.alias, model=form.model, label=shadow_id, share=form.share,
            fallback=form.fallback,
        )  # fmt: skip
    except BaseException:
        with store.session() as session:
            session.execute(delete(ModelShadow).where(ModelShadow.id == shadow_id))
        raise
    with store.session() as session:
        audit_log.note(session, f"aliases {form.alias} relayed to", None, form.provider)
        if before is not None:
            session.add(AliasChange(alias=form.alias, model=None, previous=before, changed_by=actor.id))
    return shadow_id


@requires("admin")
def change(
    store: Store, actor: Actor, shadow_id: str, *, share: int, threshold: float | None, min_calls: int, fallback: bool
) -> None:
    """Change what a running comparison does; the worker tells the engine within seconds."""
    with store.session() as session:
        row = _get(session, shadow_id)
        row.share, row.threshold, row.min_calls, row.fallback = share, threshold, min_calls, fallback


@requires("admin")
def stop(store: Store, actor: Actor, registry: Registry, shadow_id: str) -> None:
    """Stop relaying. Programs that ask the engine for the old model get an error until an alias answers."""
    with store.session() as session:
        row = _get(session, shadow_id)
        if row.state != "on":
            return
        row.state, row.ended_at, alias = "stopped", utcnow(), row.alias
    client = registry.get(ENGINE)
    if any(one.label == shadow_id for one in engine_shadows.listed(client)):
        engine_shadows.remove(client, alias)


@requires("admin")
def flip(store: Store, actor: Actor, registry: Registry, shadow_id: str) -> None:
    """Let the new model answer from now on."""
    with store.reading() as session:
        row = _get(session, shadow_id)
    engine_aliases.save(store, actor, registry.get(ENGINE), row.alias, row.model)
    finish(store, shadow_id, "flipped", None)


@requires("admin")
def resume(store: Store, actor: Actor, registry: Registry, shadow_id: str) -> str:
    """Let the old model answer again, with the same settings, but without flipping by itself. Counts begin at 0."""
    with store.reading() as session:
        form = _form(_get(session, shadow_id))
    again = ShadowForm(form.alias, form.model, form.provider, form.share, None, form.min_calls, form.fallback)
    return start(store, actor, registry, again)


@requires("admin")
def delete_pairs(store: Store, actor: Actor, registry: Registry, shadow_id: str) -> None:
    """Delete the stored calls and answers of a comparison; its counts stay."""
    engine_shadows.forget(registry.get(ENGINE), shadow_id)
    with store.session() as session:
        session.execute(delete(ShadowPair).where(ShadowPair.shadow_id == shadow_id))


def finish(store: Store, shadow_id: str, state: str, reason: str | None) -> None:
    """Record how a comparison has ended; one that has ended is not changed."""
    with store.session() as session:
        row = session.get(ModelShadow, shadow_id)
        if row is not None and row.state == "on":
            row.state, row.reason, row.note, row.ended_at = state, reason, None, utcnow()


def _get(session: Session, shadow_id: str) -> ModelShadow:
    row = session.get(ModelShadow, shadow_id)
    if row is None:
        raise NotFound(msg("This comparison does not exist."), msg("Reload the page."))
    return row


def _row(shadow_id: str, actor: Actor, form: ShadowForm) -> ModelShadow:
    return ModelShadow(
        id=shadow_id, alias=form.alias, model=form.model, provider=form.provider, share=form.share,
        threshold=form.threshold, min_calls=form.min_calls, fallback=form.fallback, created_by=actor.id,
    )  # fmt: skip


def _form(row: ModelShadow) -> ShadowForm:
    return ShadowForm(row.alias, row.model, row.provider, row.share, row.threshold, row.min_calls, row.fallback)


def _view(session: Session, row: ModelShadow) -> ShadowView:
    figures = select(func.count(), func.avg(ShadowPair.old_s), func.avg(ShadowPair.new_s))
    pairs, old_s, new_s = session.execute(figures.where(ShadowPair.shadow_id == row.id)).one()
    return ShadowView(
        id=row.id,
        form=_form(row),
        state=row.state,
        reason=row.reason,
        note=row.note,
        relayed=row.relayed,
        failed=row.failed,
        dropped=row.dropped,
        agreement=agreement.over(row.agreed, row.compared),
        pairs=pairs,
        old_s=old_s,
        new_s=new_s,
        created_at=row.created_at,
        created_by=row.created_by,
        ended_at=row.ended_at,
    )
