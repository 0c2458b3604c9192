"""A run as one zip: settings, curve, events, checkpoints, evaluations, before and after, charts and a model card."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from core.db.store import Store
from core.sanitize import safe_cell, safe_csv
from core.training import before_after, checkpoints, evaluations, job_views, lineage, model_card
from core.training.job_views import JobView

_MOST_EVENTS = 100_000
_PNG_SCALE = 2.0  # sharp on today's screens and in print


def run_zip(store: Store, job_id: str, charts: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """A zip of one run. Nothing of a key, an address or another person is in it.

    Args:
        charts: Vega-Lite by file name; drawn as SVG and PNG where vl-convert-python is installed.

    Raises:
        NotFound: there is no such job.
    """
    job = job_views.get(store, job_id)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("README.md", model_card.model_card(store, job_id))
        file.writestr("settings.json", _json(settings(job)))
        file.writestr("results.csv", safe_csv(job.results_csv or ""))
        events = job_views.events(store, job_id, _MOST_EVENTS)
        file.writestr(
            "events.csv", _csv(("at", "level", "type", "message"), ([e.at, e.level, e.type, e.message] for e in events))
        )
        kept = checkpoints.list_checkpoints(store, job_id)
        rows = ([one.step, one.model, one.created_at, json.dumps(dict(one.metrics))] for one in kept)
        file.writestr("checkpoints.csv", _csv(("step", "model", "created_at", "metrics"), rows))
        file.writestr("lineage.json", _json([settings(one) for one in lineage.chain(store, job_id)]))
        judged = [
            {"model": one.model, "kind": one.kind, "state": one.state, "metrics": one.metrics.to_dict()}
            for one in evaluations.of_job(store, job)
            if one.metrics is not None
        ]
        file.writestr("evaluations.json", _json(judged))
        file.writestr("before_after.json", _json(before_after.to_dicts(before_after.get(store, job_id))))
        for name, chart in (charts or {}).items():
            _draw(file, _plain_name(name), chart)
    return made.getvalue()


def settings(job: JobView) -> Mapping[str, Any]:
    """What was asked for and what came of it, as JSON has it."""
    names = (
        "id", "name", "provider", "base_model", "fine_tuned_model", "suffix", "hyperparameters", "seed", "file_format",
        "separator", "stop", "dataset_id", "version_id", "validation_share", "parent_id", "n_examples",
        "trained_tokens", "cost_usd", "estimated_usd", "estimated_s", "status", "error", "remote_id", "created_at",
        "finished_at",
    )  # fmt: skip
    return {name: getattr(job, name) for name in names}


def chart_images() -> bool:
    """Whether charts can be drawn here."""
    return importlib.util.find_spec("vl_convert") is not None


def _draw(file: zipfile.ZipFile, name: str, chart: Mapping[str, Any]) -> None:
    spec = json.dumps(chart)
    file.writestr(f"charts/{name}.vl.json", spec)
    if chart_images():
        import vl_convert  # here: it brings a JavaScript engine of 100 MB, which only an export needs

        # no map or data set is fetched from anywhere: what a chart shows is in it
        file.writestr(f"charts/{name}.svg", vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
        png = vl_convert.vegalite_to_png(spec, scale=_PNG_SCALE, allowed_base_urls=[])
        file.writestr(f"charts/{name}.png", png)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(["" if cell is None else safe_cell(_text(cell)) for cell in row])
    return text.getvalue()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=_text) + "\n"


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _plain_name(name: str) -> str:
    """A file name that leads nowhere else."""
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name)[:80] or "chart"
