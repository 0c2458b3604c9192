"""Shadow: programs keep the old model's answers, and a share of their calls is answered by the new model too.

What a person does here is written into the ledger first, then carried out by the engine (`shadow_states`). The worker
(`shadow_worker`) collects the calls, compares the answers, and flips the alias when enough of them agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db import audit_log
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import ModelShadow, ShadowPair, utcnow
from core.errors import BadRequest, ChangedMeanwhile, FabulaError, Misconfigured, Unavailable
from core.message import msg
from core.migrate import shadow_states as states
from core.parity import agreement
from core.parity.agreement import Agreement
from core.providers import Provider, Registry, engine_shadows
from core.providers.engine_aliases import Expected
from core.providers.registry import ENGINE

KEPT_PAIRS = 1_000
"""Pairs of answers that a comparison keeps, the newest."""
KEPT_CHARS = 20_000
"""Of each text of a pair; answers are compared before."""
MAX_THRESHOLD = 0.99
"""No number of calls proves an agreement of 100 %."""
_WORST = 20


@dataclass(frozen=True, slots=True)
class ShadowForm:
    """What a person sets.

    Attributes:
        share: per cent of the calls that are copied, 0 to 100.
        threshold: agreement at whose lower bound the alias flips by itself, up to `MAX_THRESHOLD`; None: never.
        min_calls: not before so many calls were compared.
        fallback: whether the new model answers once the old one has stopped.
        keep_days: how long texts are kept.
    """

    alias: str
    model: str
    provider: str
    share: int = 20
    threshold: float | None = None
    min_calls: int = 100
    fallback: bool = True
    keep_days: int = 30


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
    """A comparison and its counts, see `core.db.tables.ModelShadow`.

    Attributes:
        pairs: how many are kept.
        old_s, new_s: mean seconds of these pairs; None without any.
    """

    id: str
    form: ShadowForm
    state: str
    settled: bool
    reason: str | None
    note: str | None
    relayed: int
    failed: int
    dropped: int
    lost: int
    agreement: Agreement
    pairs: int
    old_s: float | None
    new_s: float | None
    created_at: datetime
    created_by: str
    ended_at: datetime | None


@requires("admin")
def newest(store: Store, actor: Actor, alias: str) -> ShadowView | None:
    """The newest comparison of an old model; None if there was none."""
    query = select(ModelShadow).where(ModelShadow.alias == alias).order_by(ModelShadow.created_at.desc()).limit(1)
    with store.reading() as session:
        row = session.scalar(query)
        return None if row is None else _view(session, row)


@requires("admin")
def worst_pairs(store: Store, actor: Actor, shadow_id: str, limit: int = _WORST) -> list[PairView]:
    """The calls whose answers differ, worst first, the newest first among equals."""
    differ = (ShadowPair.shadow_id == shadow_id, ShadowPair.score < 1)
    query = select(ShadowPair).where(*differ).order_by(ShadowPair.score, ShadowPair.id.desc()).limit(limit)
    with store.reading() as session:
        return [
            PairView(agreement.last_message(one.prompt), one.old, one.new, one.score, one.error)
            for one in session.scalars(query)
        ]


def is_relayed(provider: Provider) -> bool:
    """Whether the engine can relay calls to a provider: Azure's clients and addresses are others than OpenAI's."""
    return not (provider.capabilities.has_resource_address or provider.capabilities.engine_api)


@requires("admin")
def start(store: Store, actor: Actor, registry: Registry, form: ShadowForm, expected: Expected | None = None) -> str:
    """Let the engine relay the calls for an old model, and copy a share of them. Returns the comparison's id.

    An alias of this name is removed: from now on the old model answers again.

    Args:
        expected: what the person has seen the alias lead to.

    Raises:
        ChangedMeanwhile: someone else has started it, or changed the alias.
        Misconfigured: the old model's provider has another API.
        ModelNotFound: the new model is not on the engine.
        Unavailable: whether the engine has started is not known; the worker asks it.
    """
    _check_threshold(form.threshold)
    provider = registry.provider(form.provider)
    if not is_relayed(provider):
        raise Misconfigured(
            msg("{name} has another API than OpenAI, so the engine can't relay calls to it.", name=provider.name),
            msg("Switch without a comparison on calls, or compare both models under Training → Evaluation."),
        )
    client, shadow_id = registry.get(ENGINE), new_id()
    with store.session() as session:
        advisory_lock(session, "model_shadows")
        open_ones = select(ModelShadow.id).where(ModelShadow.alias == form.alias, ModelShadow.state.in_(states.OPEN))
        if session.scalar(open_ones) is not None:
            raise ChangedMeanwhile(msg("Someone else has just started this comparison."), msg("Nothing was changed."))
        session.add(_row(shadow_id, actor, form))
    try:
        engine_shadows.save(
            client, provider, alias=form.alias, model=form.model, label=shadow_id, share=form.share,
            fallback=form.fallback, expected=expected,
        )  # fmt: skip
    except FabulaError as exc:
        if not isinstance(exc, Unavailable) or not exc.may_be_billed:  # the engine has refused it, or never got it
            with store.session() as session:
                session.execute(delete(ModelShadow).where(ModelShadow.id == shadow_id))
        raise
    with store.session() as session:
        audit_log.note(session, f"aliases {form.alias} relayed to", None, form.provider)
    states.confirm_or_note(store, client, shadow_id)
    return shadow_id


@requires("admin")
def change(
    store: Store, actor: Actor, shadow_id: str, *, share: int, threshold: float | None, min_calls: int, fallback: bool,
    keep_days: int,
) -> None:  # fmt: skip
    """Change what a running comparison does; the worker tells the engine within seconds."""
    _check_threshold(threshold)
    with store.session() as session:
        row = states.get(session, shadow_id)
        row.share, row.threshold, row.min_calls, row.fallback = share, threshold, min_calls, fallback
        row.keep_days = keep_days


@requires("admin")
def stop(store: Store, actor: Actor, registry: Registry, shadow_id: str) -> None:
    """Stop relaying. Programs that ask the engine for the old model get an error until an alias answers.

    If the engine does not respond, the worker asks it again until it has confirmed.
    """
    if states.decide(store, shadow_id, "stopping", states.OPEN, actor.id):
        states.confirm_or_note(store, registry.get(ENGINE), shadow_id)


@requires("admin")
def flip(store: Store, actor: Actor, registry: Registry, shadow_id: str) -> None:
    """Let the new model answer from now on. If the engine does not respond, the worker asks it again.

    Raises:
        ChangedMeanwhile: the comparison has ended.
    """
    if not states.decide(store, shadow_id, "flipping", ("on",), actor.id):
        raise ChangedMeanwhile(
            msg("This comparison has ended, or is about to."), msg("Nothing was changed. Reload the page.")
        )
    states.confirm_or_note(store, registry.get(ENGINE), shadow_id)


@requires("admin")
def resume(store: Store, actor: Actor, registry: Registry, shadow_id: str) -> str:
    """Let the old model answer again, with the same settings, but without flipping by itself. Counts begin at 0.

    Raises:
        ChangedMeanwhile: the alias does not lead to the new model any more.
    """
    with store.reading() as session:
        row = states.get(session, shadow_id)
    return start(store, actor, registry, replace(_form(row), threshold=None), Expected(row.model))


@requires("admin")
def delete_pairs(store: Store, actor: Actor, registry: Registry, shadow_id: str) -> None:
    """Delete the stored calls and answers of a comparison, also those that the worker is about to store; its counts
    and costs stay.
    """
    engine_shadows.forget_texts(registry.get(ENGINE), shadow_id)
    with store.session() as session:
        states.get(session, shadow_id, locks=True).texts_deleted_at = utcnow()
        session.execute(delete(ShadowPair).where(ShadowPair.shadow_id == shadow_id))


def delete_old_pairs(session: Session, now: datetime) -> None:
    """Delete the pairs that were kept long enough, also those of comparisons that have ended."""
    with_pairs = select(ModelShadow.id, ModelShadow.keep_days).where(ModelShadow.id.in_(select(ShadowPair.shadow_id)))
    for shadow_id, days in session.execute(with_pairs).all():
        old = ShadowPair.created_at < now - timedelta(days=days)
        session.execute(delete(ShadowPair).where(ShadowPair.shadow_id == shadow_id, old))


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0 < threshold <= MAX_THRESHOLD:
        raise BadRequest(
            msg("The agreement at which the alias switches must be 1 to 99 %."),
            msg("No number of calls proves an agreement of 100 %. Choose 99 % or less."),
        )


def _row(shadow_id: str, actor: Actor, form: ShadowForm) -> ModelShadow:
    return ModelShadow(
        id=shadow_id, alias=form.alias, model=form.model, provider=form.provider, share=form.share,
        threshold=form.threshold, min_calls=form.min_calls, fallback=form.fallback, keep_days=form.keep_days,
        state="starting", created_by=actor.id,
    )  # fmt: skip


def _form(row: ModelShadow) -> ShadowForm:
    return ShadowForm(
        row.alias, row.model, row.provider, row.share, row.threshold, row.min_calls, row.fallback, row.keep_days
    )


def _view(session: Session, row: ModelShadow) -> ShadowView:
    figures = select(func.count(), func.avg(ShadowPair.old_s), func.avg(ShadowPair.new_s))
    pairs, old_s, new_s = session.execute(figures.where(ShadowPair.shadow_id == row.id)).one()
    return ShadowView(
        id=row.id,
        form=_form(row),
        state=row.state,
        settled=row.settled,
        reason=row.reason,
        note=row.note,
        relayed=row.relayed,
        failed=row.failed,
        dropped=row.dropped,
        lost=row.lost,
        agreement=agreement.over(row.agreed, row.compared),
        pairs=pairs,
        old_s=old_s,
        new_s=new_s,
        created_at=row.created_at,
        created_by=row.created_by,
        ended_at=row.ended_at,
    )
