"""Exports a run as a zip: settings, curve, events, checkpoints, evaluations, answers, charts and a model card.

The model card, in Markdown, describes the model, its data, its quality, and what is unknown.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from core.datasets import datasets
from core.db.store import Store
from core.errors import NotFound
from core.evaluation import before_after, evaluations
from core.evaluation.before_after import BeforeAfterView
from core.evaluation.evaluations import EvaluationView
from core.evaluation.scoring import Interval
from core.finetuning import checkpoints, curve_analysis, job_events, job_views, lineage, results
from core.finetuning.job_views import JobView
from core.finetuning.results import figure
from core.message import percent
from core.sanitize import markdown_text, safe_cell, safe_csv

_UNKNOWN = "unknown"
_NO_TEXT = "no text"
_DEFINITIONS = {"smoothed": "smoothed", "last_step": "last step", "held_out": "held-out"}

_MAX_EVENTS = 100_000
_PNG_SCALE = 2.0  # sharp on high-density screens and in print


def model_card(store: Store, job_id: str) -> str:
    """The model card of the model that a job produced.

    Raises:
        NotFound: the job does not exist.
    """
    job = job_views.get(store, job_id)
    curve = results.parse(job.results_csv or "")
    chain = lineage.chain(store, job_id)
    evaluated = [item for item in evaluations.list_for_job(store, job) if item.metrics is not None]
    lines = [
        f"# {markdown_text(job.fine_tuned_model or job.name)}",
        "",
        f"Made by the training job “{markdown_text(job.name)}” with Fabula.",
        "",
        "## Model",
        "",
        *_table(_facts(job, chain)),
        "",
        "## Training data",
        "",
        *_table(_data(store, job)),
        "",
        "## Training",
        "",
        *_table(_training(job, curve)),
        *_notes(store, job, curve),
        "",
        "## Evaluation on held-out rows",
        "",
        *(_evaluation_table(evaluated) if evaluated else ["Not evaluated on held-out rows yet."]),
        "",
        *_before_after_section(before_after.get(store, job_id)),
        "## Limitations",
        "",
        "- The figures apply to data that is similar to the training data.",
        "- The output is not checked. The licence and terms of the base model also apply to this model.",
        "",
    ]
    return "\n".join(lines)


def _notes(store: Store, job: JobView, curve: results.Results) -> list[str]:
    """What stands out in the curve, as a list after an empty line."""
    found = curve_analysis.observations(curve, checkpoints.list_checkpoints(store, job.id), job.n_examples)
    return ["", *(f"- {markdown_text(item.sentence)}" for item in found)] if found else []


def _facts(job: JobView, chain: tuple[JobView, ...]) -> list[tuple[str, str]]:
    hyperparameters = ", ".join(f"{name} {value}" for name, value in job.hyperparameters.items()) or "automatic"
    return [
        ("Base model", markdown_text(chain[0].base_model)),
        ("Provider", markdown_text(job.provider)),
        ("Training jobs", " → ".join(markdown_text(ancestor.name) for ancestor in chain)),
        ("Hyper-parameters", markdown_text(hyperparameters)),
        ("Seed", _UNKNOWN if job.seed is None else str(job.seed)),
        ("Prompts end with", _code(job.separator)),
        ("Completions end with", _code(job.stop)),
        ("Finished", f"{job.finished_at:%Y-%m-%d %H:%M} UTC" if job.finished_at is not None else "not yet"),
    ]


def _data(store: Store, job: JobView) -> list[tuple[str, str]]:
    name = _UNKNOWN
    if job.dataset_id is not None:
        try:
            name = datasets.summary(store, job.dataset_id).name
        except NotFound:
            name = "a deleted data set"
    validation = "none" if job.validation_share is None else percent(job.validation_share, 0)
    return [
        ("Data set", markdown_text(name)),
        ("Examples", f"{job.n_examples:,}" if job.n_examples is not None else _UNKNOWN),
        ("Kept for validation", validation),
        ("Format", job.file_format),
    ]


def _training(job: JobView, curve: results.Results) -> list[tuple[str, str]]:
    return [
        ("Steps", f"{curve.steps:,}" if curve.steps else _UNKNOWN),
        ("Training loss, first step", _number(curve.first("training_loss"))),
        ("Training loss", _figure(curve, "training_loss")),
        ("Token accuracy", _figure(curve, "training_token_accuracy")),
        ("Validation loss", _figure(curve, "validation_loss")),
        ("Validation accuracy", _figure(curve, "validation_token_accuracy")),
        ("Tokens trained on", f"{job.trained_tokens:,}" if job.trained_tokens is not None else _UNKNOWN),
        ("Cost", f"${job.cost_usd:f}" if job.cost_usd is not None else _UNKNOWN),
    ]


def _evaluation_table(evaluated: list[EvaluationView]) -> list[str]:
    lines = ["| Model | Rows | Measure | Value | 95 % interval |", "|---|---|---|---|---|"]
    for evaluation in evaluated:
        assert evaluation.metrics is not None
        measures: list[tuple[str, Interval | None]] = [
            ("label accuracy", evaluation.metrics.accuracy),
            ("similarity to the expected text (chrF)", evaluation.metrics.overlap),
        ]
        prefix = f"| {markdown_text(evaluation.model)} | {evaluation.metrics.n:,}"
        lines += [
            f"{prefix} | {name} | {value.value:.3f} | {value.low:.3f} to {value.high:.3f} |"
            for name, value in measures
            if value is not None
        ]
    return lines


def _before_after_section(view: BeforeAfterView | None) -> list[str]:
    """The answers of the base model and the new model to the same prompts."""
    lines = ["## Before and after", ""] if view is not None and view.pairs else []
    for pair in view.pairs if view is not None else ():
        lines += [f"Prompt: {markdown_text(pair.prompt)}", ""]
        for name, answer in (("Base model", pair.base), ("New model", pair.tuned)):
            lines += [
                f"{name}:",
                "",
                *(f"> {markdown_text(line)}" for line in (answer.text or _NO_TEXT).splitlines()),
                "",
            ]
    return lines


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _figure(curve: results.Results, column: str) -> str:
    """The figure with its definition: "0.8123 (smoothed)"."""
    found = figure(curve, column)
    if found is None:
        return _UNKNOWN
    value = percent(found.value) if column.endswith("accuracy") else f"{found.value:.4f}"
    return f"{value} ({_DEFINITIONS[found.definition]})"


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.4f}"


def _code(mark: str | None) -> str:
    if mark is None:
        return "no marker"
    return "`" + repr(mark)[1:-1].replace("`", "'").replace("|", "\\|") + "`"


def run_zip(store: Store, job_id: str, charts: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """A zip of one run, without API keys, server addresses or other people's data.

    Args:
        charts: Vega-Lite specs by file name; also saved as SVG and PNG if vl-convert-python is installed.

    Raises:
        NotFound: the job does not exist.
    """
    job = job_views.get(store, job_id)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", model_card(store, job_id))
        archive.writestr("settings.json", _json(job_views.job_settings(job)))
        archive.writestr("results.csv", safe_csv(job.results_csv or ""))
        events = job_events.events(store, job_id, _MAX_EVENTS)
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

        # charts contain their data, so nothing needs to be fetched
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
