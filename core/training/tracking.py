"""Runs in Weights & Biases and Trackio too, for teams that keep theirs there. Both are optional to install.

OpenAI logs to W&B by itself (`integrations` of a job). For every other provider the worker logs the run when it has
ended: settings, every step of the curve, and what came out. A tracker that fails harms nothing: the job says why.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
from collections.abc import Mapping
from typing import Any

from core.db.store import Store
from core.db.tables import TrainingJob
from core.settings import Settings
from core.training import exporting, results, views
from core.training.form import PROJECT
from core.training.views import JobView

_log = logging.getLogger(__name__)
_LONGEST_ERROR = 300  # characters of a tracker's own words
_BY_ITSELF = ("openai", "wandb")  # (provider, tracker): the provider logs there, see core.training.submit


def unavailable(tracker: str, environ: Mapping[str, str] | None = None, provider: str = "") -> str | None:
    """Why a tracker cannot be used here; None: it can. A provider that logs to it by itself needs nothing here."""
    if (provider, tracker) == _BY_ITSELF:
        return None
    if tracker == "wandb":
        if importlib.util.find_spec("wandb") is None:
            return "Weights & Biases is not installed here. Install it with: pip install wandb."
        env = os.environ if environ is None else environ
        if not env.get("WANDB_API_KEY") and env.get("WANDB_MODE") != "offline":
            return "Weights & Biases needs its key in WANDB_API_KEY."
        return None
    if importlib.util.find_spec("trackio") is None:
        return "Trackio is not installed here. Install it with: pip install trackio."
    return None


def log_run(store: Store, job_id: str) -> None:
    """Log a run that has ended where it is wanted; what came of it stands in the job. Never raises for a tracker."""
    job = views.get(store, job_id)
    if not job.trackers:
        return
    told = {name: dict(job.trackers[name]) for name in job.trackers}
    for name, known in told.items():
        if known.get("state") == "logged" or (job.provider, name) == _BY_ITSELF:
            known["state"] = "logged"
            continue
        known |= _log_to(name, job, str(known.get("project") or PROJECT))
    with store.session() as session:
        session.get_one(TrainingJob, job_id).trackers = told


def _log_to(name: str, job: JobView, project: str) -> dict[str, Any]:
    if (why := unavailable(name)) is not None:
        return {"state": "skipped", "error": why}
    try:
        url = (_wandb if name == "wandb" else _trackio)(job, project)
    except Exception as exc:  # a tracker's own code, network or login: none of it may harm the job
        _log.warning("Could not log %s to %s.", job.id, name, exc_info=True)
        return {"state": "failed", "error": f"{type(exc).__name__}: {exc}"[:_LONGEST_ERROR]}
    return {"state": "logged", "error": None, "url": url}


def _wandb(job: JobView, project: str) -> str | None:
    wandb = importlib.import_module("wandb")
    folder = Settings.from_env().home / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=project, name=job.name, id=job.id, resume="allow", config=_config(job), dir=str(folder), reinit=True
    )
    for step, values in _steps(job):
        run.log(values, step=step)
    run.summary.update(_summary(job))
    run.finish()
    return str(run.url) if getattr(run, "url", None) else None


def _trackio(job: JobView, project: str) -> str | None:
    trackio = importlib.import_module("trackio")
    trackio.init(project=project, name=f"{job.name}-{job.id[:6]}", config=_config(job))
    for step, values in _steps(job):
        trackio.log(values, step=step)
    if summary := {name: value for name, value in _summary(job).items() if isinstance(value, int | float)}:
        trackio.log(summary)
    trackio.finish()
    return None


def _steps(job: JobView) -> list[tuple[int, dict[str, float]]]:
    """Every step with what is known of it."""
    frame = results.parse(job.results_csv or "").frame
    names = [name for name in frame.columns if name != "step"]
    rows = frame.astype("float64").to_dict("records")
    return [
        (int(row["step"]), {str(name): float(row[name]) for name in names if not math.isnan(row[name])}) for row in rows
    ]


def _config(job: JobView) -> dict[str, Any]:
    return {
        name: value for name, value in exporting.settings(job).items() if isinstance(value, str | int | float | dict)
    }


def _summary(job: JobView) -> dict[str, Any]:
    found = {
        "trained_tokens": job.trained_tokens,
        "cost_usd": None if job.cost_usd is None else float(job.cost_usd),
        "fine_tuned_model": job.fine_tuned_model,
        "status": job.status,
    }
    return {name: value for name, value in found.items() if value is not None}
