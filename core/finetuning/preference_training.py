"""Training from preferences (DPO): which data can do it, in which format, and what is said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from core.datasets import export, jsonl
from core.datasets.export import Selection
from core.datasets.preferences import PreferencePlan
from core.db.store import Store
from core.db.tables import Checkpoint, TrainingJob
from core.finetuning.job_form import FileFormat, required_format
from core.message import msg
from core.providers import ModelInfo
from core.providers.capabilities import Capabilities


@dataclass(frozen=True, slots=True)
class PreferenceMarks:
    """The format in which a model reads preferences: that of its own training."""

    file_format: FileFormat
    separator: str | None = None
    stop: str | None = None


def marks_of(store: Store, base: ModelInfo) -> PreferenceMarks:
    """The format for a job that starts from this model.

    A model that was tuned on prompts and completions keeps their format, separator and stop, because the votes are on
    what it writes there. Chat is used for every other model that supports it.
    """
    by_model = select(TrainingJob.file_format, TrainingJob.separator, TrainingJob.stop)
    by_point = by_model.join(Checkpoint, Checkpoint.job_id == TrainingJob.id).where(Checkpoint.model == base.id)
    with store.reading() as session:
        found = session.execute(by_model.where(TrainingJob.fine_tuned_model == base.id)).first()
        found = found or session.execute(by_point).first()
    if required_format(base.provider, base.id) == "chat":
        return PreferenceMarks("chat")
    if found is not None and found.file_format == "completion":
        return PreferenceMarks("completion", found.separator, found.stop)
    return PreferenceMarks("completion" if found is None and base.format == "completion" else "chat")


def plan(selection: Selection, file_format: FileFormat, separator: str | None, stop: str | None) -> PreferencePlan:
    """How the rows are written; a model without marks of its own gets the common ones that its texts do not contain.

    Raises:
        BadTrainingFile: no row can be used.
        NotFound: the data set does not exist.
    """
    if file_format == "completion" and (separator is None or stop is None):
        answers = jsonl.plan(
            (prompt, text)
            for row in selection.preferences()
            for prompt, text in _both(row.prompt, row.preferred, row.rejected)
        )
        separator, stop = separator or answers.separator, stop or answers.stop
    return export.preference_plan(selection, file_format, separator=separator or "", stop=stop or "")


def unsupported(capabilities: Capabilities, name: str) -> str | None:
    """Why a provider can't train on preferences from here, with what can; None if it can."""
    if "dpo" in capabilities.methods:
        return None
    return msg(
        "Fabula can't start preference training (DPO) at {name}. Start from a model of the engine or of OpenAI.",
        name=name,
    )


def _both(prompt: str, preferred: str, rejected: str | None) -> list[tuple[str, str]]:
    return [(prompt, preferred), *([(prompt, rejected)] if rejected else [])]
