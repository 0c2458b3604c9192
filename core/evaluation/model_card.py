"""The model card of a run in Markdown: the model, its data, its quality, and what is unknown.

After M. Mitchell and others, "Model Cards for Model Reporting" (2019).
"""

from __future__ import annotations

from core.datasets import datasets
from core.db.store import Store
from core.errors import NotFound
from core.evaluation import before_after, evaluations
from core.evaluation.before_after import BeforeAfterView
from core.evaluation.evaluations import EvaluationView
from core.evaluation.scoring import Interval
from core.finetuning import checkpoints, curve_analysis, job_views, lineage, results
from core.finetuning.job_views import JobView
from core.finetuning.results import figure
from core.message import percent

_SPECIAL = "\\`*_{}[]<>()#+!|~$"
_UNKNOWN = "unknown"
_NO_TEXT = "no text"
_DEFINITIONS = {"smoothed": "smoothed", "last_step": "last step", "held_out": "held-out"}


def model_card(store: Store, job_id: str) -> str:
    """The card of the model that a job made.

    Raises:
        NotFound: the job does not exist.
    """
    job = job_views.get(store, job_id)
    curve = results.parse(job.results_csv or "")
    chain = lineage.chain(store, job_id)
    evaluated = [item for item in evaluations.list_for_job(store, job) if item.metrics is not None]
    saved_checkpoints = checkpoints.list_checkpoints(store, job_id)
    notes = [
        f"- {_plain(item.sentence)}" for item in curve_analysis.observations(curve, saved_checkpoints, job.n_examples)
    ]
    lines = [
        f"# {_plain(job.fine_tuned_model or job.name)}",
        "",
        f"Made by the training job “{_plain(job.name)}” with Fabula.",
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
        *(["", *notes] if notes else []),
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


def _facts(job: JobView, chain: tuple[JobView, ...]) -> list[tuple[str, str]]:
    hyperparameters = ", ".join(f"{name} {value}" for name, value in job.hyperparameters.items()) or "automatic"
    return [
        ("Base model", _plain(chain[0].base_model)),
        ("Provider", _plain(job.provider)),
        ("Training jobs", " → ".join(_plain(ancestor.name) for ancestor in chain)),
        ("Hyper-parameters", _plain(hyperparameters)),
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
        ("Data set", _plain(name)),
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
        prefix = f"| {_plain(evaluation.model)} | {evaluation.metrics.n:,}"
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
        lines += [f"Prompt: {_plain(pair.prompt)}", ""]
        for name, answer in (("Base model", pair.base), ("New model", pair.tuned)):
            lines += [f"{name}:", "", *(f"> {_plain(line)}" for line in (answer.text or _NO_TEXT).splitlines()), ""]
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


def _plain(text: str) -> str:
    """Escape Markdown, so that a name can't become a link, an image or HTML."""
    return "".join(f"\\{char}" if char in _SPECIAL else " " if char in "\r\n\t" else char for char in text)
