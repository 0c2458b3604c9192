"""The form of "Bring 12 examples": samples, a table to type into, text to paste, a file to upload, and the check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from core import packaged_models
from core.datasets import example_pairs, presets
from core.datasets.example_pairs import CheckedExamples, ExamplePair
from core.datasets.presets import ExampleSample
from core.errors import FabulaError
from core.finetuning import examples
from core.providers import ModelInfo
from core.providers.registry import ENGINE
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.dataset.importing import FILE_TYPES
from pages.ui.i18n import _, as_markdown, column_title, duration, in_language, language, n_, plain
from pages.ui.training import cached_training

_DRAFT, _OPEN, _ON_TOP = "home_examples_draft", "home_examples_form", "home_examples_on_top"
_PASTED, _FILE = "home_examples_pasted", "home_examples_file"
_BLANK_ROWS = 5  # rows of an empty table: the minimum number of examples
_TABLE_PX = 300
_MOST_MB = 20  # 200 rows of maximum length take less than 2

Start = Callable[[str, str, str, bool, float | None], None]


@dataclass
class ExamplesDraft:
    """One visitor's examples table.

    Attributes:
        rows: the current pairs with their row numbers.
        version: changes when the rows are replaced, so that the table is rendered from them.
        frame: the data that the table was rendered from; the browser keeps later edits.
        suffix: suffix of the model: the id of the chosen sample, otherwise `examples.OWN`.
        notes: rows left out of the last paste or upload.
        problem: an error of the last click.
    """

    rows: tuple[tuple[int, ExamplePair], ...] = ()
    version: int = 0
    frame: pd.DataFrame | None = None
    suffix: str = examples.OWN_SUFFIX
    notes: tuple[str, ...] = ()
    problem: FabulaError | None = None
    refused: CheckedExamples | None = None  # rows that were left out because there are too many

    def replace(self, pairs: Sequence[ExamplePair], suffix: str) -> None:
        self.rows = tuple(enumerate(pairs, 1))
        self.version, self.frame, self.suffix = self.version + 1, None, suffix
        self.notes, self.problem, self.refused = (), None, None


def _draft() -> ExamplesDraft:
    state.set_default(_DRAFT, ExamplesDraft())
    found: ExamplesDraft = state.get(_DRAFT)
    return found


def is_open() -> bool:
    """True if the visitor opened the form although there is a job to show."""
    return bool(state.get(_OPEN))


def open_with(suffix: str, dataset_id: str | None) -> None:
    """Open the form with the examples of a data set, to add more."""
    _draft().replace(examples.pairs_of(cache.store(), dataset_id), suffix)
    state.set_value(_OPEN, True)


def open_on_top() -> None:
    """Open the form at the top of the page, with the visitor's input so far."""
    state.set_value(_OPEN, True)
    state.set_value(_ON_TOP, True)


def on_top() -> bool:
    """True if the card is above the tour."""
    return bool(state.get(_ON_TOP))


def close() -> None:
    """Show the newest job again."""
    state.set_value(_OPEN, False)


def typed() -> tuple[tuple[int, ExamplePair], ...]:
    """The rows of the table with their numbers, including blank ones."""
    return _draft().rows


@contextmanager
def keep_problems() -> Iterator[None]:
    """For callbacks of the card: store an error and show it in the card (a click re-renders only the card)."""
    draft = _draft()
    draft.problem = draft.refused = None
    try:
        yield
    except FabulaError as problem:
        draft.problem = problem


def show(start: Start) -> None:
    """Render the form; `start` is the callback of its submit button."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(_("Bring 12 examples"), anchor=False)
        if is_open():
            st.button(_("Close"), icon=":material/close:", type="tertiary", key="home_examples_close", on_click=close)
    st.markdown(
        _(
            "Type or paste prompts with their right answers. Fabula trains a small model on them, on "
            "this machine, in about a minute. A 270M model learns format and labels, not facts."
        )
    )
    _samples()
    _table()
    _more()
    draft = _draft()
    for note in draft.notes:
        st.caption(f":material/info: {as_markdown(note)}")
    if draft.problem is not None:
        cards.error_card(draft.problem)
    if draft.refused is not None:
        _refused(draft.refused)
    _train(start)


def _samples() -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(_("Start with a sample:"), width="content")
        for sample in presets.example_samples(language()):
            st.button(
                in_language(sample.names), icon=sample.icon, key=f"home_examples_{sample.id}",
                on_click=_take, args=(sample,),
            )  # fmt: skip
        if any(any(pair) for _row, pair in typed()):
            st.button(
                _("Clear"), icon=":material/delete_sweep:", type="tertiary", key="home_examples_clear",
                on_click=_draft().replace, args=((), examples.OWN_SUFFIX),
            )  # fmt: skip


def _take(sample: ExampleSample) -> None:
    _draft().replace(sample.pairs, sample.id)


def _table() -> None:
    """Render the editor, from the rows whenever they are replaced or the visitor returns to the page."""
    draft = _draft()
    key = f"home_examples_table_{draft.version}"
    if draft.frame is None or state.get(key) is None:
        pairs = [pair for _row, pair in draft.rows]
        pairs += [ExamplePair("", "")] * (_BLANK_ROWS - len(pairs))
        index = pd.RangeIndex(1, len(pairs) + 1)
        draft.frame = pd.DataFrame(pairs, columns=[examples.PROMPT, examples.ANSWER], index=index, dtype="str")
    edited = st.data_editor(
        draft.frame,
        key=key,
        num_rows="dynamic",
        hide_index=False,
        height=_TABLE_PX,
        column_config={
            examples.PROMPT: st.column_config.TextColumn(column_title(examples.PROMPT), width="large"),
            examples.ANSWER: st.column_config.TextColumn(column_title(examples.ANSWER), width="medium"),
        },
        alt=_("Your examples: a prompt and its answer in each row"),
    )
    cells = edited.fillna("").itertuples(name=None)
    draft.rows = tuple(
        (int(row) if isinstance(row, int | float) else place, ExamplePair(str(prompt), str(answer)))
        for place, (row, prompt, answer) in enumerate(cells, 1)
    )


def _more() -> None:
    with st.expander(_("Paste or upload examples"), type="compact", icon=":material/content_paste:"):
        st.text_area(
            _("Chat log, table or JSON lines"),
            key=_PASTED,
            height=140,
            placeholder=_("Customer: Where is my parcel?\nAgent: track_order"),
        )
        st.button(_("Add to the table"), icon=":material/playlist_add:", key="home_examples_add", on_click=_paste)
        st.file_uploader(
            _("Table (CSV, JSONL, Excel, Parquet) or chat log (TXT)"),
            type=FILE_TYPES,
            key=_FILE,
            max_upload_size=_MOST_MB,
            on_change=_upload,
        )


def _paste() -> None:
    with keep_problems():
        _fill(example_pairs.from_text(str(state.get(_PASTED) or "")))
        state.set_value(_PASTED, "")


def _upload() -> None:
    file = state.get(_FILE)
    if file is None:
        return
    with keep_problems():
        _fill(example_pairs.from_file(file.getvalue(), file.name))


def _fill(found: example_pairs.Pasted) -> None:
    """Add the pairs to the visitor's own; an unchanged sample is replaced."""
    draft = _draft()
    own_pairs = [pair for _row, pair in draft.rows if any(text.strip() for text in pair)]
    if tuple(own_pairs) in [sample.pairs for sample in presets.example_samples(language())]:
        own_pairs = []
    checked = example_pairs.check([*own_pairs, *found.pairs])
    if checked.too_many:
        draft.refused = checked
        return
    draft.replace([*own_pairs, *found.pairs], draft.suffix if own_pairs else examples.OWN_SUFFIX)
    draft.notes = found.notes


def _refused(checked: CheckedExamples) -> None:
    st.error(as_markdown(checked.findings[0].sentence), icon=":material/error:")
    _to_the_data_set_page()


def _to_the_data_set_page() -> None:
    if st.button(_("Open the Data set page"), icon=":material/grid_view:", key="home_examples_dataset"):
        st.switch_page("dataset.py")


def _train(start: Start) -> None:
    """Render the check, the training estimate, and the button."""
    rows = typed()
    checked = example_pairs.check([pair for _row, pair in rows], [row for row, _pair in rows])
    empty = not checked.pairs and not any(any(pair) for _row, pair in rows)
    for finding in checked.findings:
        words = as_markdown(finding.sentence)
        if empty:
            st.caption(f":material/info: {words}")
        elif finding.blocking:
            st.error(words, icon=":material/error:")
        else:
            st.warning(words, icon=":material/warning:")
    if checked.too_many and _draft().refused is None:
        _to_the_data_set_page()
    missing = cache.status().engine.state == "missing"
    if missing:
        cards.engine_missing_card()
    base = examples.base_model(cache.models().found)
    model = base or ModelInfo(packaged_models.BASE, ENGINE, None, "both", None)
    expected_s = _expected_s(model, checked) if checked.ready and not missing else None
    suffix = _draft().suffix
    st.button(
        _("Train on these examples"), type="primary", icon=":material/model_training:", key="home_examples_train",
        disabled=missing or not checked.ready, on_click=start,
        args=(suffix, _name(suffix), model.id, cache.endpoint_of(model) == "chat", expected_s),
    )  # fmt: skip
    if checked.ready:
        reason = as_markdown(examples.suggest_hyperparameters(len(checked.pairs)).reason)
        count = n_("{n} example", "{n} examples", len(checked.pairs))
        time = "" if expected_s is None else _("about {time}").format(time=duration(expected_s))
        st.caption(" · ".join(part for part in (count, plain(model.id), time) if part) + f". {reason}")


def _expected_s(model: ModelInfo, checked: CheckedExamples) -> float | None:
    """Expected seconds of training on this machine; None if unknown."""
    chosen = examples.suggest_hyperparameters(len(checked.pairs))
    tokens = examples.count_tokens(checked.pairs, model.id)
    return cached_training.estimate(model, tokens, chosen.n_epochs, len(checked.pairs)).seconds


def _name(suffix: str) -> str:
    """Name of the data set and the job, in the visitor's language."""
    names = {sample.id: in_language(sample.names) for sample in presets.example_samples(language())}
    return names.get(suffix, _("My examples"))
