"""Use: rows and versions, checks and changes, the price of training, a mix with other data sets, export to files."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import chain
from pathlib import Path

import streamlit as st

from core import packaged_models
from core.datasets import conversation_rows, datasets, export, mixing
from core.datasets.datasets import MAX_NAME, DatasetSummary
from core.datasets.importers import table
from core.datasets.splitting import Split
from core.datasets.versions import Version
from core.errors import FabulaError
from core.providers import ModelInfo
from pages.ui import background, cache, state, visible
from pages.ui.components import cards, fields, models, views
from pages.ui.components.fields import number_field, text_field
from pages.ui.dataset import dataset_picker, training_file
from pages.ui.dataset.training_file import TrainingFormat
from pages.ui.i18n import _, label, n_, pair, percent, plain
from pages.ui.sign_in import current_actor

_USUAL_EPOCHS = 3  # the engine's automatic value
_LARGEST_SEED = 2**31 - 1
_LARGEST_SHARE = Decimal(1_000_000)
_MIX_MADE = "dataset_mix_made"


def show() -> None:
    """Render the whole section."""
    _open_made_mix()
    chosen = dataset_picker.pick()
    if chosen is None:
        return
    if not chosen.done:
        _nothing_yet()
        return
    left, right = st.columns([3, 2], gap="medium")
    with left:
        with st.container(border=True):
            st.markdown(_("**Rows**"))
            version = dataset_picker.pick_version("dataset", chosen)
            dataset_picker.version_form(chosen)
        with st.container(border=True):
            st.markdown(_("**Checks and changes**"))
            marks = TrainingFormat()
            with cards.show_errors():
                marks = training_file.marks("dataset", chosen, version)
                rows = training_file.rows_of(chosen, version)
                version_id = None if version is None else version.id
                preview = background.wait_for_task(training_file.written(chosen.id, version_id, rows, marks))
                if preview is not None:
                    training_file.report(preview)
    with right:
        with st.container(border=True):
            model, epochs = _train_card(chosen, version, marks)
        with st.container(border=True):
            _export_card(chosen, version, marks, model, epochs)
        _mix_card(chosen)


def _mix_card(chosen: DatasetSummary) -> None:
    others = [one for one in visible.dataset_list() if one.done and one.id != chosen.id]
    if others:
        with st.expander(_("Mix with other data sets"), icon=":material/join:"):
            _mix_form(chosen, others)


def _nothing_yet() -> None:
    sentence = _("This data set has no finished rows yet. Generate them first; then you can train on them.")
    with cards.empty(sentence, icon=":material/edit_note:"):
        st.button(
            _("Go to the run"),
            type="primary",
            icon=":material/play_arrow:",
            key="dataset_to_run",
            on_click=state.set_value,
            args=("dataset_part", "rows"),
        )


def _train_card(chosen: DatasetSummary, version: Version | None, marks: TrainingFormat) -> tuple[ModelInfo | None, int]:
    """Render model, epochs, estimate and the button. Returns model and epochs; None if no model can be trained now."""
    st.markdown(_("**Train on this data set**"))
    model = models.picker(_("Model"), "dataset_train_model", prefer=packaged_models.BASE, among=visible.trainable())
    epochs = number_field(
        _("Epochs: how many times each row is used"),
        "dataset_train_epochs",
        1,
        50,
        _USUAL_EPOCHS,
        persist_state="session",
    )
    if model is None:
        models.none_yet()
    else:
        _training_estimate(chosen, version, marks, model, epochs)
    if st.button(
        _("Train on this"),
        icon=":material/model_training:",
        type="primary",
        width="stretch",
        key="dataset_train",
    ):
        _carry_over(chosen, version, model, epochs)
    return model, epochs


def _training_estimate(
    chosen: DatasetSummary, version: Version | None, marks: TrainingFormat, model: ModelInfo, epochs: int
) -> None:
    rows, version_id = training_file.rows_of(chosen, version), version.id if version else None
    try:
        work = training_file.tokens_of(chosen.id, version_id, rows, marks, model)
        views.facts(training_file.training_facts(model, work.get(), epochs))
    except FabulaError:
        return  # the check shows what is wrong
    background.wait_for_task(work)


def _carry_over(chosen: DatasetSummary, version: Version | None, model: ModelInfo | None, epochs: int) -> None:
    """Start the new job with the choices made here."""
    state.set_value("training_dataset", chosen.id)
    state.set_value(f"training_version_{chosen.id}", version.id if version is not None else "")
    state.set_value("training_part", "new")
    training_file.carry(chosen, version, "dataset", "training")
    if model is not None:
        state.set_value("training_base", f"{model.provider}/{model.id}")
    if epochs != _USUAL_EPOCHS:
        state.set_value("training_epochs_auto", False)
        state.set_value("training_epochs", epochs)
    st.switch_page("training.py")


def _mix_form(chosen: DatasetSummary, others: Sequence[DatasetSummary]) -> None:
    """Render the other data sets, their shares, the resulting rows, and the button."""
    by_id = {one.id: one for one in others}
    picked = st.multiselect(
        _("Other data sets"),
        list(by_id),
        format_func={key: dataset_picker.label(one) for key, one in by_id.items()}.__getitem__,
        key="dataset_mix_others",
        placeholder=_("Choose at least one"),
    )
    if not picked:
        st.caption(
            _(
                "Train one model on several domains. Rows are drawn evenly from the cells of each data "
                "set; no row is used twice."
            )
        )
        return
    parts = [(one.id, _share_field(one)) for one in (chosen, *(by_id[id_] for id_ in picked))]
    all_rows = st.toggle(_("All available rows"), True, key="dataset_mix_whole")
    size = None if all_rows else number_field(_("Rows of the mix"), "dataset_mix_size", 1, table.MAX_ROWS, 100)
    seed = number_field(_("Seed (change it to draw other rows)"), "dataset_mix_seed", 0, _LARGEST_SEED)
    name = text_field(_("Name"), "dataset_mix_name", MAX_NAME, placeholder=_("the names of its data sets"))
    try:
        planned = mixing.plan(cache.store(), parts, size)
    except FabulaError as problem:
        cards.hint(problem)
        return
    for part in planned:
        rows_text = n_("{n} row", "{n} rows", part.rows)
        st.markdown(f"- {pair(plain(part.name), rows_text)} · {percent(part.share)}")
    count = sum(part.rows for part in planned)
    if st.button(n_("Mix {n} row", "Mix {n} rows", count), icon=":material/join:", key="dataset_mix"):
        with cards.show_errors(), st.spinner(_("Mixing"), show_time=True):
            _save_mix(name, parts, seed, size)
            st.rerun()


def _open_made_mix() -> None:
    """Open the mix that was just created. Call it before the data set picker is rendered."""
    if (mix_id := state.get(_MIX_MADE)) is not None:
        state.set_value("dataset_open", mix_id)
        state.set_value("dataset_mix_others", [])  # so that the next click does not use the new mix again
        state.set_value(_MIX_MADE, None)


def _share_field(one: DatasetSummary) -> float:
    key = f"dataset_mix_share_{one.id}"
    fields.default_decimal(key, 1)
    share = fields.decimal_field(
        _("Share of {name}").format(name=label(one.name)),
        key,
        Decimal(0),
        _LARGEST_SHARE,
        help=_("Shares are relative: 2 and 1 mean two thirds and one third."),
    )
    return float(share.value or 0)  # 0 is rejected by the plan, with a reason


def _save_mix(name: str, parts: list[tuple[str, float]], seed: int, size: int | None) -> None:
    state.set_value(_MIX_MADE, mixing.mix(cache.store(), current_actor(), name, parts, seed, size))
    state.notify(":material/join:", _("The mix is saved as a new data set."))
    cache.refresh()


# --- export -----------------------------------------------------------------------------------------------------------

_MOST_CHARACTERS = 100_000_000  # a file of 100 to 300 MB, which is kept in memory during the download
_CSV_MARK = "\ufeff"  # without it, spreadsheets do not detect UTF-8


def _export_card(
    chosen: DatasetSummary, version: Version | None, marks: TrainingFormat, model: ModelInfo | None, epochs: int
) -> None:
    """Render one line per format, with its button and the training estimate. `marks`: the chosen training format."""
    st.markdown(_("**Export**"))
    if datasets.total_characters(cache.store(), chosen.id) > _MOST_CHARACTERS:
        st.caption(_("Too many rows to download in a browser. Use Python to write them line by line (see the docs)."))
        return
    marks = marks if marks.file_format == "completion" else TrainingFormat()
    if not conversation_rows.holds(chosen.columns):
        _jsonl(chosen, version, marks, _("JSONL, prompt and completion"), model, epochs)
    _jsonl(chosen, version, TrainingFormat(file_format="chat"), _("JSONL, chat"), model, epochs)
    if datasets.preference_rows(cache.store(), chosen.id, version.id if version else None):
        _preferences(chosen, version)
    with st.container(horizontal=True):
        _download_button(_("CSV"), "csv", f"{chosen.name}.csv", "text/csv", lambda: _csv_file(chosen.id))
        _download_button(
            _("Parquet"), "parquet", f"{chosen.name}.parquet", "application/vnd.apache.parquet",
            lambda: _parquet_file(chosen.id),
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
            _download_button(
                label,
                f"{marks.file_format}_{part}",
                f"{name}{ending}.jsonl",
                "application/jsonl",
                lambda part=part: _jsonl_file(chosen.id, version_id, marks, part),  # type: ignore[misc]  # bound now
                disabled=preview is None,
            )
    if model is not None:
        unknown = _("time: known after the first job")  # shown once, next to the button, not under every file
        views.facts(fact for fact in training_file.training_facts(model, count, epochs) if fact != unknown)
    if work is not None and not work.done:
        background.wait_for_task(work)


def _preferences(chosen: DatasetSummary, version: Version | None) -> None:
    """Render the buttons for the pairs of answers, one per split, in OpenAI's format."""
    version_id = version.id if version else None
    with st.container(horizontal=True):
        parts: list[tuple[Split, str]] = [("train", _("JSONL, preferences (DPO)"))]
        if version is not None and version.n_validation:
            parts.append(("validation", _("Validation")))
        for part, label in parts:
            _download_button(
                label, f"preferences_{part}", f"{chosen.name}_preferences_{part}.jsonl", "application/jsonl",
                lambda part=part: _preference_file(chosen.id, version_id, part),  # type: ignore[misc]  # bound now
            )  # fmt: skip


def _preference_file(dataset_id: str, version_id: str | None, part: Split) -> io.BytesIO:
    selection = export.Selection(cache.store(), dataset_id, version_id)
    return _file(export.preference_lines_of(selection, export.preference_plan(selection, "chat"), part))


def _download_button(
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


def _jsonl_file(dataset_id: str, version_id: str | None, marks: TrainingFormat, part: Split) -> io.BytesIO:
    selection = export.Selection(cache.store(), dataset_id, version_id)
    plan = export.plan(selection, marks.file_format, separator=marks.separator, stop=marks.stop)
    return _file(export.jsonl_lines(selection, plan, part))


def _csv_file(dataset_id: str) -> io.BytesIO:
    return _file(chain((_CSV_MARK,), export.csv_lines(cache.store(), dataset_id)))


def _file(lines: Iterable[str]) -> io.BytesIO:
    """The lines as a file in memory, built when its button is clicked."""
    file = io.BytesIO()
    file.writelines(line.encode() for line in lines)
    return file


def _parquet_file(dataset_id: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="fabula-") as folder:
        path = Path(folder) / "rows.parquet"
        export.write_parquet(cache.store(), dataset_id, path)
        return path.read_bytes()
