"""The curve of any results CSV: Fabula's own, OpenAI's current format, or one from 2023."""

from __future__ import annotations

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from core.charts.training_curve import CurveSource
from core.datasets.importers import decoding
from pages.ui import state
from pages.ui.components import cards
from pages.ui.i18n import _, as_markdown
from pages.ui.training import cached_training, curves

_MEBIBYTE = 1 << 20  # the unit of an uploader's limit
_HELD = "training_file_read"  # (id of the upload, its curve)


def show() -> None:
    """Render the whole section."""
    file = st.file_uploader(
        _("Results CSV of a fine-tuning job"),
        type=["csv", "txt"],
        key="training_results_file",
        max_upload_size=decoding.MAX_DECODE_BYTES // _MEBIBYTE,
    )
    if file is None:
        st.caption(_("The results file of a job, with one line for each step. The file is not sent to any provider."))
        return
    with cards.show_errors():
        _read(_source(file))


def _source(file: UploadedFile) -> CurveSource:
    """The parsed file, once per upload."""
    stored = state.get(_HELD)
    if stored is None or stored[0] != file.file_id:
        with st.spinner(_("Reading the file"), show_time=True):
            text = decoding.decode(file.getvalue(), file.name).text
            stored = (file.file_id, cached_training.read_file(file.file_id, text))
        state.set_value(_HELD, stored)
    source: CurveSource = stored[1]
    return source


def _read(source: CurveSource) -> None:
    """Render the curve, or why there is none."""
    read = source.results
    if read.empty:
        st.error(as_markdown(read.note or ""), icon=":material/description:")
        return
    if not read.has_steps:
        st.error(
            _("This file has no column “step”, so it is not a results file. Upload the results CSV of a job."),
            icon=":material/description:",
        )
        return
    if not read.steps:
        st.info(
            _("This file has no step that can be read yet. Upload it again when the job has finished one."),
            icon=":material/hourglass_empty:",
        )
        return
    curves.show(source, "training_file")
