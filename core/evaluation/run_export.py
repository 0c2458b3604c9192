"""Exports a run as a zip: settings, curve, events, checkpoints, evaluations, answers, charts and a model card."""

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
from core.evaluation import before_after, evaluations, model_card
from core.finetuning import checkpoints, job_views, lineage
from core.sanitize import safe_cell, safe_csv

_MAX_EVENTS = 100_000
_PNG_SCALE = 2.0  # sharp on high-density screens and in print


def run_zip(store: Store, job_id: str, charts: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """A zip of one run, without API keys, server addresses or data of other people.

    Args:
        charts: Vega-Lite specs by file name; also saved as SVG and PNG if vl-convert-python is installed.

    Raises:
        NotFound: the job does not exist.
    """
    job = job_views.get(store, job_id)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", model_card.model_card(store, job_id))
        archive.writestr("settings.json", _json(job_views.job_settings(job)))
        archive.writestr("results.csv", safe_csv(job.results_csv or ""))
        events = job_views.events(store, job_id, _MAX_EVENTS)
        archive.writestr(
            "events.csv",
            _csv(
                ("created_at", "level", "type", "message"), ([e.created_at, e.level, e.type, e.message] for e in events)
            ),
        )
        saved_checkpoints = checkpoints.list_checkpoints(store, job_id)
        rows = ([item.step, item.model, item.created_at, json.dumps(dict(item.metrics))] for item in saved_checkpoints)
        archive.writestr("checkpoints.csv", _csv(("step", "model", "created_at", "metrics"), rows))
        archive.writestr("lineage.json", _json([job_views.job_settings(item) for item in lineage.chain(store, job_id)]))
        evaluated = [
            {"model": item.model, "kind": item.kind, "state": item.state, "metrics": item.metrics.to_dict()}
            for item in evaluations.list_for_job(store, job)
            if item.metrics is not None
        ]
        archive.writestr("evaluations.json", _json(evaluated))
        archive.writestr("before_after.json", _json(before_after.to_dicts(before_after.get(store, job_id))))
        for name, chart in (charts or {}).items():
            _write_chart(archive, _safe_name(name), chart)
    return buffer.getvalue()


def chart_images() -> bool:
    """Whether charts can be rendered as images here."""
    return importlib.util.find_spec("vl_convert") is not None


def _write_chart(archive: zipfile.ZipFile, name: str, chart: Mapping[str, Any]) -> None:
    spec = json.dumps(chart)
    archive.writestr(f"charts/{name}.vl.json", spec)
    if chart_images():
        import vl_convert  # imported here because it loads a 100 MB JavaScript engine

        # charts contain their data, so nothing may be fetched
        archive.writestr(f"charts/{name}.svg", vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
        png = vl_convert.vegalite_to_png(spec, scale=_PNG_SCALE, allowed_base_urls=[])
        archive.writestr(f"charts/{name}.png", png)


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


def _safe_name(name: str) -> str:
    """A file name without path separators."""
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name)[:80] or "chart"
