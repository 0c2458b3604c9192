"""Gauges for Prometheus from the ledger and the engine. Every process reports the same values."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.db import spend_totals
from core.db.store import Store
from core.db.tables import BeforeAfter, Budget, Evaluation, Run, Tour, TrainingJob, WorkerHeartbeat, utcnow
from core.errors import FabulaError
from core.finetuning import job_views
from core.generation import run_progress
from core.jobs.engine_supervisor import ask_health
from core.jobs.heartbeat import DOWN_AFTER_S
from core.metrics import Gauges, Source
from core.providers import engine_endpoint
from core.settings import Settings

_ENGINE_TIMEOUT_S = 2.0
DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "fabula_database_up": ("Whether the database answers", ""),
    "fabula_runs": ("Runs, by state", "state"),
    "fabula_training_jobs": ("Training jobs, by status", "status"),
    "fabula_queued": ("Items that wait for a worker, by kind", "kind"),
    "fabula_running": ("Items that workers are working on", ""),
    "fabula_workers": ("Workers that are alive", ""),
    "fabula_month_spend_usd": ("Spent and reserved in this calendar month (UTC), in US dollars", ""),
    "fabula_month_budget_usd": ("Budget of this month for everyone, in US dollars; absent: none", ""),
    "fabula_engine_up": ("Whether the engine answers", ""),
    "fabula_engine_queue": ("Training jobs that wait at the engine", ""),
    "fabula_engine_generation_tokens_per_second": ("Speed of the engine's last generation", ""),
    "fabula_engine_training_tokens_per_second": ("Speed of the training in progress; 0: none", ""),
}
"""Description and label of every gauge, by name."""


def ledger_source(store: Store) -> Source:
    """The ledger's gauges. If it cannot be read, the only one is `fabula_database_up`, which is 0."""

    def read() -> Gauges:
        try:
            with store.reading() as session:
                return _described({"fabula_database_up": {"": 1}, **_states(session), **_money(session)})
        except (FabulaError, SQLAlchemyError):
            return _described({"fabula_database_up": {"": 0}})

    return read


def engine_source(settings: Settings) -> Source:
    """The engine's gauges. If it does not answer, the only one is `fabula_engine_up`, which is 0."""

    def read() -> Gauges:
        try:
            health = ask_health(engine_endpoint.current_endpoint(settings), _ENGINE_TIMEOUT_S)
        except FabulaError:
            health = None
        if health is None:
            return _described({"fabula_engine_up": {"": 0}})
        values: dict[str, object] = {
            "fabula_engine_up": 1,
            "fabula_engine_queue": health.get("queue"),
            "fabula_engine_generation_tokens_per_second": health.get("tokens_per_s"),
            "fabula_engine_training_tokens_per_second": (health.get("training") or {}).get("tokens_per_s") or 0,
        }
        return _described({name: {"": one} for name, one in values.items() if isinstance(one, int | float)})

    return read


def _states(session: Session) -> dict[str, dict[str, float]]:
    queued = {
        "run": select(func.count()).where(Run.state == "queued"),
        "job": select(func.count()).where(TrainingJob.status == "preparing"),
        "evaluation": select(func.count()).where(Evaluation.state == "queued"),
        "comparison": select(func.count()).where(BeforeAfter.state == "queued"),
        "tour": select(func.count()).where(Tour.state == "queued"),
    }
    cutoff = utcnow() - timedelta(seconds=DOWN_AFTER_S)
    beats = session.scalars(select(WorkerHeartbeat).where(WorkerHeartbeat.heartbeat_at > cutoff)).all()
    return {
        "fabula_runs": dict.fromkeys((*run_progress.ACTIVE, "paused", "stopped", "done", "failed"), 0.0)
        | _counts(session, Run.state),
        "fabula_training_jobs": dict.fromkeys(("preparing", "queued", "running", *job_views.FINISHED[:3]), 0.0)
        | _counts(session, TrainingJob.status),
        "fabula_queued": {kind: _number(session, query) for kind, query in queued.items()},
        "fabula_running": {"": sum(beat.running for beat in beats)},
        "fabula_workers": {"": len(beats)},
    }


def _money(session: Session) -> dict[str, dict[str, float]]:
    spent = sum(spend_totals.of_month(session, utcnow()).values(), Decimal(0))
    budget = session.scalar(select(Budget.amount_usd).where(Budget.scope == "month"))
    return {
        "fabula_month_spend_usd": {"": float(spent)},
        **({} if budget is None else {"fabula_month_budget_usd": {"": float(budget)}}),
    }


def _counts(session: Session, state: InstrumentedAttribute[str]) -> dict[str, float]:
    return {name: float(count) for name, count in session.execute(select(state, func.count()).group_by(state))}


def _number(session: Session, query: Select[Any]) -> float:
    return float(session.scalar(query) or 0)


def _described(values: dict[str, dict[str, float]]) -> Gauges:
    return {name: (*DESCRIPTIONS[name], one) for name, one in values.items()}
