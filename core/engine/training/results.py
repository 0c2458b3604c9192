"""A job's results file: the trainer's metrics as CSV in OpenAI's format."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from core.engine.training.trainer.job import read_lines

HEADER = (
    "step",
    "elapsed_tokens",
    "elapsed_examples",
    "training_loss",
    "training_sequence_accuracy",
    "training_token_accuracy",
    "validation_loss",
    "validation_token_accuracy",
)


def csv_text(job_folder: Path) -> str:
    """The CSV so far; only the header before the first step. Unmeasured values are empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for row in read_lines(job_folder / "metrics.jsonl"):
        writer.writerow(["" if row.get(name) is None else row[name] for name in HEADER])
    return text.getvalue()
