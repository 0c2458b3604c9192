"""The curve of any results CSV: ours, OpenAI's of today, or one from 2023."""

from __future__ import annotations

import streamlit as st

from core.training import results
from pages.ui import curves
from pages.ui.lang import _


def show() -> None:
    """The whole part."""
    file = st.file_uploader(_("Results CSV of a fine-tuning job"), type=["csv", "txt"], key="training_results_file")
    if file is None:
        st.caption(_("The file that a job leaves behind, with one line for each step. Nothing is sent anywhere."))
        return
    read = results.parse(file.getvalue().decode("utf-8", errors="replace"))
    if not read.steps:
        st.error(
            _("This file has no column “step”, so it is no results file. Upload the CSV that the job left behind."),
            icon=":material/description:",
        )
        return
    curves.show(read, "training_file")
