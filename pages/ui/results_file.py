"""The curve of any results CSV: ours, OpenAI's of today, or one from 2023."""

from __future__ import annotations

import streamlit as st

from core.dataset import decoding
from core.training import results
from pages.ui import cards, curves
from pages.ui.lang import _


def show() -> None:
    """The whole part."""
    file = st.file_uploader(_("Results CSV of a fine-tuning job"), type=["csv", "txt"], key="training_results_file")
    if file is None:
        st.caption(_("The file that a job leaves behind, with one line for each step. Nothing is sent anywhere."))
        return
    with cards.errors_shown():
        _read(results.parse(decoding.decode(file.getvalue(), file.name).text))


def _read(read: results.Results) -> None:
    """The curve, or why there is none."""
    if not read.has_steps:
        st.error(
            _("This file has no column “step”, so it is no results file. Upload the CSV that the job left behind."),
            icon=":material/description:",
        )
        return
    if not read.steps:
        st.info(
            _("This file has no line with a step that can be read yet. Upload it again when the job has made one."),
            icon=":material/hourglass_empty:",
        )
        return
    curves.show(read, "training_file")
