"""The first step of a new job: rows, their quality, the model, and a check of the whole file.

Nothing is sent to a provider here.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from core.datasets.datasets import DatasetSummary
from core.datasets.quality.report import QualityReport
from core.datasets.versions import Version
from core.finetuning.file_checker import FileCheck
from core.finetuning.job_form import default_validation_share, required_format
from core.pricing.prices import ENGINE
from core.pricing.tokens import TokenCount
from pages.ui import background, state, visible
from pages.ui.background import RefreshedReport
from pages.ui.components import cards, models
from pages.ui.dataset import dataset_picker, importing, quality_report, training_file
from pages.ui.dataset.training_file import TrainingFormat
from pages.ui.i18n import _, about, as_markdown, localized, mark, n_, number
from pages.ui.training import cached_training, job_estimate, job_form, preference_form
from pages.ui.training.job_form import JobDraft

_LEVELS = {"error": mark("error"), "warning": mark("warning")}
_MEGABYTE = 1_000_000
_LOOK_S = 1.0  # a long measurement reads thousands of rows per second


def show() -> bool:
    """Render the step; returns True if the person can continue."""
    ready = [one for one in visible.dataset_list() if one.done]
    left, right = st.columns(2, gap="medium")
    with left:
        chosen = job_form.pick_rows(ready)
        version = dataset_picker.pick_version("training", chosen) if chosen is not None else None
        if chosen is not None and version is None:
            _share(chosen)
        method = preference_form.choose(chosen, version) if chosen is not None else "supervised"
    with right:
        base = job_form.pick_base()
        if base is None:
            models.none_yet()
        with st.expander(_("Upload a CSV or JSONL instead"), icon=":material/upload_file:", expanded=not ready):
            importing.upload_form("training", _opened)
    if chosen is None:
        return False
    with cards.show_errors():
        _quality(chosen)
    st.markdown(_("**Checks and changes**"))
    if method == "dpo":
        marks = preference_form.marks(base)
        job_form.keep(marks)
        rows = training_file.rows_of(chosen, version)
        usable = base is not None and preference_form.show(chosen, version, rows, marks, base)
        return usable and _checked(job_form.draft())
    only = required_format(base.provider, base.id) if base is not None else None
    marks = training_file.marks("training", chosen, version, only)
    job_form.keep(marks)
    fine = _prepared(chosen, version, marks)
    return base is not None and fine and _checked(job_form.draft())


def _opened(dataset_id: str) -> None:
    state.set_value(job_form.DATASET, dataset_id)


def _share(chosen: DatasetSummary) -> None:
    """Render the choice of the share kept for validation, unless the data set defines it."""
    if training_file.parts(chosen.id).get("validation"):
        return
    key = job_form.share_key(chosen.id)
    state.set_default(key, round(100 * default_validation_share(training_file.rows_of(chosen, None))))
    dataset_picker.validation_share(key, persist_state="session")


def _quality(chosen: DatasetSummary) -> None:
    """Render the verdict of the quality report on the finished rows, as on the data-set page."""
    measurement, fingerprint = quality_report.quality_of(chosen.id)
    measurement.ask(fingerprint)
    measurement.wait(background.REPORT_WAIT_S)
    if measurement.running:
        st.fragment(run_every=_LOOK_S)(_measuring)(measurement)
        return
    if measurement.error is not None:
        cards.error_card(measurement.error)
    if measurement.report is None:
        return
    report = measurement.report
    st.markdown(quality_report.verdict_line(report))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(quality_report.basis(report), width="content")
        if report.findings and st.button(
            _("See these rows"), icon=":material/fact_check:", type="tertiary", key="training_quality"
        ):
            dataset_picker.open_part(chosen.id, "quality")
            st.switch_page("dataset.py")


def _measuring(measurement: RefreshedReport[QualityReport]) -> None:
    """Render the progress of the measurement; rerun the step when it is done."""
    if not measurement.running:
        st.rerun()
    quality_report.progress_bar(measurement)


def _prepared(chosen: DatasetSummary, version: Version | None, marks: TrainingFormat) -> bool:
    """Render checks and changes, with two lines of the file."""
    with cards.show_errors():
        rows = training_file.rows_of(chosen, version)
        preview = background.wait_for_task(
            training_file.written(chosen.id, version.id if version is not None else None, rows, marks)
        )
        if preview is not None:
            training_file.report(preview)
            return True
    return False


def _checked(draft: JobDraft) -> bool:
    """Render the check of the whole file as it would be sent: figures, then errors by line."""
    st.markdown(_("**Check of the whole file**"))
    with cards.show_errors():
        found = background.wait_for_task(
            cached_training.file_check(job_form.form(draft), draft.file_rows, draft.base.context)
        )
        count = background.wait_for_task(job_estimate.counting(draft)) if found is not None else None
        if found is None or count is None:
            return False
        _verdict(found)
        _facts(draft, found, count)
        if found.problems:
            _problems(found)
        return found.ok
    return False


def _verdict(found: FileCheck) -> None:
    for level, sentence in found.summary():
        icon = ":red[:material/error:]" if level == "error" else ":orange[:material/warning:]"
        st.markdown(f"{icon} {as_markdown(sentence)}")
    if not found.problems:
        st.markdown(f":green[:material/check_circle:] {as_markdown(' '.join(found.sentences()))}")


def _facts(draft: JobDraft, found: FileCheck, count: TokenCount) -> None:
    """Render facts about the file on one line, with the token count that the next step uses."""
    epoch_tokens = job_estimate.epoch_tokens(draft, count)
    tokens = number(epoch_tokens) if count.exact else _("about {tokens}").format(tokens=about(epoch_tokens))
    longest = _("longest example: {n} tokens, line {line}").format(
        n=number(found.longest_tokens), line=number(found.longest_line)
    )
    reads = _("the model's limit is {n}").format(n=number(found.context)) if found.context else ""
    validation = draft.share or (draft.version is not None and draft.version.n_validation)
    facts = [
        n_("{n} example", "{n} examples", found.examples),
        _("including those kept for validation") if validation else "",
        _("{n} MB").format(n=number(max(0.01, found.bytes / _MEGABYTE), 2)),
        _("{tokens} tokens in one epoch").format(tokens=tokens),
        longest,
        reads,
    ]
    st.caption(" · ".join(fact for fact in facts if fact))
    if draft.base.provider != ENGINE:
        st.caption(_("The provider's moderation checks the texts when the job starts."))


def _problems(found: FileCheck) -> None:
    """Render the problems by line, with the beginning of each line."""
    shown = pd.DataFrame(
        [
            {
                "line": one.line or None,
                "level": _(_LEVELS[one.level]),
                "what": localized(one.sentence),
                "begins": one.preview,
            }
            for one in found.problems
        ]
    )
    st.dataframe(
        shown,
        hide_index=True,
        height="content" if len(shown) <= 5 else 220,
        column_config={
            "line": st.column_config.NumberColumn(_("Line"), format="localized"),
            "level": st.column_config.TextColumn(_("Severity")),
            "what": st.column_config.TextColumn(_("Problem")),
            "begins": st.column_config.TextColumn(_("Start of the line")),
        },
        placeholder="–",
        alt=_("Problems in the file, line by line"),
    )
    more = found.errors + found.warnings - len(found.problems)
    if more > 0:
        st.caption(n_("and {n} more", "and {n} more", more))
