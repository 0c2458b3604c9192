"""Export: CSV, JSONL and Parquet, each JSONL with its tokens, price and time."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import streamlit as st

from core.datasets import datasets, export
from core.datasets.datasets import DatasetSummary
from core.datasets.splitting import Split
from core.datasets.versions import Version
from core.errors import FabulaError
from core.providers import ModelInfo
from pages.ui import background, cache
from pages.ui.components import cards, views
from pages.ui.dataset import training_file
from pages.ui.dataset.training_file import TrainingFormat
from pages.ui.i18n import _

_MOST_CHARACTERS = 100_000_000  # a file of 100 to 300 MB, which is kept in memory during the download
_CSV_MARK = "\ufeff"  # without it, spreadsheets do not detect UTF-8


def show(
    chosen: DatasetSummary, version: Version | None, marks: TrainingFormat, model: ModelInfo | None, epochs: int
) -> None:
    """One line per format: its button, and the training estimate. `marks`: the chosen training format."""
    st.markdown(_("**Export**"))
    if datasets.total_characters(cache.store(), chosen.id) > _MOST_CHARACTERS:
        st.caption(_("Too many rows to download in a browser. Use Python to write them line by line (see the docs)."))
        return
    marks = marks if marks.file_format == "completion" else TrainingFormat()
    _jsonl(chosen, version, marks, _("JSONL, prompt and completion"), model, epochs)
    _jsonl(chosen, version, TrainingFormat(file_format="chat"), _("JSONL, chat"), model, epochs)
    with st.container(horizontal=True):
        _button(_("CSV"), "csv", f"{chosen.name}.csv", "text/csv", lambda: _csv(chosen.id))
        _button(
            _("Parquet"), "parquet", f"{chosen.name}.parquet", "application/vnd.apache.parquet",
            lambda: _parquet(chosen.id),
        )  # fmt: skip
    st.caption(
        _(
            "CSV and Parquet contain the current text of every finished row and its split (training, "
            "validation or held out)."
        )
    )


def _jsonl(
    chosen: DatasetSummary,
    version: Version | None,
    marks: TrainingFormat,
    title: str,
    model: ModelInfo | None,
    epochs: int,
) -> None:
    rows, version_id = training_file.rows_of(chosen, version), version.id if version else None
    try:
        preview = training_file.written(chosen.id, version_id, rows, marks).get()
        work = training_file.tokens_of(chosen.id, version_id, rows, marks, model) if model is not None else None
        count = work.get() if work is not None else None
    except FabulaError as problem:
        cards.hint(problem)
        return
    name = f"{chosen.name}{'_chat' if marks.file_format == 'chat' else ''}"
    with st.container(horizontal=True):
        parts: list[tuple[Split, str, str]] = [("train", title, "")]
        if version is not None and version.n_validation:
            parts.append(("validation", _("Validation"), "_validation"))
        if version is not None and version.n_held_out:
            parts.append(("held_out", _("Held out"), "_held_out"))
        for part, label, ending in parts:
            _button(
                label,
                f"{marks.file_format}_{part}",
                f"{name}{ending}.jsonl",
                "application/jsonl",
                lambda part=part: _lines(chosen.id, version_id, marks, part),  # type: ignore[misc]  # bound now
                disabled=preview is None,
            )
    if model is not None:
        unknown = _("time: known after the first job")  # shown once, next to the button, not under every file
        views.facts(fact for fact in training_file.training_facts(model, count, epochs) if fact != unknown)
    if work is not None and not work.done:
        background.wait_for_task(work)


def _button(
    title: str, kind: str, filename: str, mime: str, data: Callable[[], bytes | io.BytesIO], *, disabled: bool = False
) -> None:
    st.download_button(
        title,
        data=data,
        file_name=filename,
        mime=mime,
        icon=":material/download:",
        key=f"dataset_file_{kind}",
        on_click="ignore",
        disabled=disabled,
    )


def _lines(dataset_id: str, version_id: str | None, marks: TrainingFormat, part: Split) -> io.BytesIO:
    selection = export.Selection(cache.store(), dataset_id, version_id)
    plan = export.plan(selection, marks.file_format, separator=marks.separator, stop=marks.stop)
    return _file(export.jsonl_lines(selection, plan, part))


def _csv(dataset_id: str) -> io.BytesIO:
    return _file(chain((_CSV_MARK,), export.csv_lines(cache.store(), dataset_id)))


def _file(lines: Iterable[str]) -> io.BytesIO:
    """The lines as a file in memory, built when its button is clicked."""
    file = io.BytesIO()
    file.writelines(line.encode() for line in lines)
    return file


def _parquet(dataset_id: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="fabula-") as folder:
        path = Path(folder) / "rows.parquet"
        export.write_parquet(cache.store(), dataset_id, path)
        return path.read_bytes()
