"""The method of a new job: learning from answers, or from votes (DPO) where the chosen rows have two answers each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

import streamlit as st

from core.datasets import datasets, export
from core.datasets.datasets import DatasetSummary
from core.datasets.preferences import PreferencePlan
from core.datasets.versions import Version
from core.errors import FabulaError
from core.evaluation import preference_data
from core.finetuning import preference_training
from core.finetuning.job_form import AUTO_BETA, BETA, JobForm
from core.providers import ModelInfo
from pages.ui import background, cache, state, visible
from pages.ui.background import BackgroundTask, shared_task
from pages.ui.cache import shared
from pages.ui.components import cards, models
from pages.ui.dataset.training_file import TrainingFormat
from pages.ui.i18n import _, as_markdown, mark, n_, number
from pages.ui.training import auto_fields

_METHODS = {"supervised": mark("Learn from answers (supervised)"), "dpo": mark("Learn from votes (DPO)")}
_BETA = "training_beta"
BETAS = (Decimal("0.001"), Decimal(str(BETA[1])))
"""The values of beta that can be typed."""
_PROPOSED = "training_votes_base"  # the data set for which the model that was voted on was proposed
_SHOWN_LINES = 2
_SHOWN_CHARACTERS = 60  # of an answer
_VOTES = "votes"  # source of data sets


def method_of(chosen: DatasetSummary, version: Version | None) -> str:
    """The method that was chosen for these rows; supervised if they have no second answers."""
    if not _count(chosen.id, None if version is None else version.id):
        return "supervised"
    return str(state.get(_key(chosen.id)) or _usual(chosen))


def choose(chosen: DatasetSummary, version: Version | None) -> str:
    """Render the choice of the method, if these rows can be used for both; returns the chosen one."""
    if not _count(chosen.id, None if version is None else version.id):
        return "supervised"
    state.set_default(_key(chosen.id), _usual(chosen))
    method = str(
        st.radio(  # both names on a phone, where a segmented control would hide one
            _("Method"), list(_METHODS), format_func=lambda one: _(_METHODS[one]), horizontal=True,
            key=_key(chosen.id), persist_state="session",
        )
    )  # fmt: skip
    if method == "dpo":
        st.caption(
            _(
                "The model learns which of two answers people prefer: the preferred one becomes more likely, the other "
                "one less. It stays close to the model it starts from, so start from the one that was voted on."
            )
        )
        _propose_base(chosen)
    else:
        st.caption(_("The model learns to write the preferred answers. The others are not used."))
    return method


def put(form: JobForm) -> None:
    """Put the method of a job into its field. Call only before they are rendered, or from a callback."""
    state.set_value(_key(form.dataset_id), form.method)
    state.set_value(_PROPOSED, form.dataset_id)  # the form names its model


def marks(base: ModelInfo | None) -> TrainingFormat:
    """The format in which the model reads the pairs."""
    if base is None:
        return TrainingFormat(file_format="chat", method="dpo")
    found = preference_training.marks_of(cache.store(), base)
    return TrainingFormat(found.separator, found.stop, found.file_format, "dpo")


def beta_field() -> bool:
    """Render the field for beta; returns whether its value is valid."""
    value = auto_fields.real(
        _("Beta"), _BETA, AUTO_BETA, *BETAS, default=AUTO_BETA,
        help=_(
            "How strongly the new model is held to the one it starts from. Lower values follow the votes more, and "
            "change other answers more."
        ),
    )  # fmt: skip
    return value.problem is None


def show(chosen: DatasetSummary, version: Version | None, rows: int, marks: TrainingFormat, base: ModelInfo) -> bool:
    """Render which pairs are trained on, which are not and why, and two of them; returns whether there are any."""
    if (problem := _unsupported(base)) is not None:
        st.markdown(f":red[:material/block:] {as_markdown(problem)}")
        return False
    with cards.show_errors():
        found = background.wait_for_task(_prepared(chosen.id, None if version is None else version.id, rows, marks))
        if found is not None:
            _report(found, chosen)
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Prepared:
    """How pairs are written, and the first lines of that file."""

    plan: PreferencePlan
    lines: tuple[str, ...]


@shared_task(
    max_entries=16,
    key=lambda dataset_id, version_id, rows, marks: (dataset_id, version_id, marks),
    version=lambda dataset_id, version_id, rows, marks: datasets.fingerprint(cache.store(), dataset_id, version_id),
)
def _prepared(dataset_id: str, version_id: str | None, rows: int, marks: TrainingFormat) -> BackgroundTask[_Prepared]:
    chosen = export.Selection(cache.store(), dataset_id, version_id)

    def look(row_seen: Callable[[], None]) -> _Prepared:
        plan = preference_training.plan(chosen, marks.file_format, marks.separator, marks.stop)
        return _Prepared(plan, tuple(islice(plan.lines(chosen.preferences()), _SHOWN_LINES)))

    return BackgroundTask(look, rows)


def _report(found: _Prepared, chosen: DatasetSummary) -> None:
    plan = found.plan
    kept = n_("{n} pair of answers to learn from", "{n} pairs of answers to learn from", plan.kept)
    st.markdown(f":material/check: {kept}")
    for sentence in plan.sentences():
        st.markdown(f":material/remove: {as_markdown(sentence)}")
    if chosen.excluded:
        excluded = _("Rows that were left out of the data set: {n}.").format(n=number(chosen.excluded))
        st.markdown(f":material/remove: {excluded}")
    if plan.file_format == "completion":
        st.caption(
            _("The pairs are written as this model was trained: its separator, and its stop at the end of each answer.")
        )
    for line in found.lines:
        st.code(_shortened(line), language=None, wrap_lines=True)


def _shortened(line: str) -> str:
    """A line of the file with long texts cut."""

    def cut(value: object) -> object:
        if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
            return f"{value[:_SHOWN_CHARACTERS]}…"
        if isinstance(value, dict):
            return {name: cut(one) for name, one in value.items()}
        return [cut(one) for one in value] if isinstance(value, list) else value

    return json.dumps(cut(json.loads(line)), ensure_ascii=False)


def _unsupported(base: ModelInfo) -> str | None:
    try:
        capabilities = cache.registry().provider(base.provider).capabilities
    except FabulaError:  # the engine is starting; its jobs wait for it
        return None
    return preference_training.unsupported(capabilities, models.provider_name(base.provider))


def _propose_base(chosen: DatasetSummary) -> None:
    """Choose the tuned model that was voted on, once for each data set. Call before the picker is rendered."""
    if state.get(_PROPOSED) == chosen.id:
        return
    state.set_value(_PROPOSED, chosen.id)
    offered = {one.id: one for one in visible.trainable()}
    voted = [offered[name] for name in _voted(chosen.id) if name in offered]
    if voted:
        best = next((one for one in voted if one.is_tuned), voted[0])
        state.set_value("training_base", f"{best.provider}/{best.id}")


@shared(max_entries=64, key=lambda dataset_id: (dataset_id, datasets.fingerprint(cache.store(), dataset_id)))
def _voted(dataset_id: str) -> tuple[str, ...]:
    return preference_data.voted_models(cache.store(), dataset_id)


@shared(
    max_entries=64,
    key=lambda dataset_id, version_id: (dataset_id, datasets.fingerprint(cache.store(), dataset_id, version_id)),
)
def _count(dataset_id: str, version_id: str | None) -> int:
    """Rows with two answers."""
    return datasets.preference_rows(cache.store(), dataset_id, version_id)


def _usual(chosen: DatasetSummary) -> str:
    return "dpo" if chosen.source == _VOTES else "supervised"


def _key(dataset_id: str) -> str:
    return f"training_method_{dataset_id}"
