"""New job: pick rows, see what preparation found and will do, set the few numbers, submit once."""

from __future__ import annotations

import json

import streamlit as st

from core.actor import LOCAL
from core.cost import estimate
from core.dataset import importing
from core.dataset.datasets import DatasetSummary
from core.errors import FabulaError
from core.providers import ModelInfo
from core.training import jobs
from core.training.jobs import JobForm
from pages.ui import cached, cards, dataset_picker, models, state, upload, views
from pages.ui.cached import Marks
from pages.ui.lang import _, about, mark, n_, plain, told, usd

_SHOWN_EXAMPLES = 2
_SHOWN_START, _SHOWN_END = 40, 24  # characters of a story


def show() -> None:
    """The whole part."""
    ready = [one for one in cached.dataset_list() if one.done]
    ready_marks: Marks | None = None  # a file that cannot be prepared cannot be trained on
    left, right = st.columns([3, 2], gap="medium")
    with left:
        with st.container(border=True):
            st.markdown(_("**1 · Rows to learn from**"))
            chosen = _pick(ready)
            with st.expander(_("Upload a CSV or JSONL instead"), icon=":material/upload_file:", expanded=not ready):
                upload.form("training", _opened)
        if chosen is not None:
            with st.container(border=True):
                st.markdown(_("**2 · What preparation found and will do**"))
                with cards.errors_shown():
                    marks = _marks(chosen)
                    _preparation(chosen, marks)
                    ready_marks = marks
    with right:
        if chosen is not None and ready_marks is not None:
            _form(chosen, ready_marks)


def _pick(ready: list[DatasetSummary]) -> DatasetSummary | None:
    if not ready:
        st.caption(_("No data set has rows yet. Upload a file here, or make one on the data set page."))
        return None
    by_id = {one.id: one for one in ready}
    if state.get("training_dataset") not in by_id:
        state.put("training_dataset", ready[0].id)
    key = st.selectbox(
        _("Data set"),
        list(by_id),
        format_func=lambda one: dataset_picker.label(by_id[one]),
        key="training_dataset",
        persist_state="session",
    )
    return by_id[str(key)]


def _opened(dataset_id: str) -> None:
    state.put("training_dataset", dataset_id)


def _marks(chosen: DatasetSummary) -> Marks:
    """Format, separator and stop; the fields begin with what preparation proposes for this data set."""
    with st.popover(_("More"), icon=":material/tune:"):
        chat = st.segmented_control(
            _("Format of the file"),
            list(_FORMATS),
            required=True,
            default=_CHAT if chosen.source == importing.CHAT else _COMPLETION,
            format_func=lambda one: _(_FORMATS[one]),
            key=f"training_format_{chosen.id}",
        )
        if chat == _CHAT:
            return Marks(file_format="chat")
        try:
            proposed = cached.prepared(chosen.id, chosen.done, Marks())
        except FabulaError:  # no usual mark is free: they must be given here
            proposed = None
        key, start = f"{chosen.id}_{chosen.done}", proposed or Marks()
        separator = _mark(_("Separator: ends every prompt"), f"training_separator_{key}", start.separator)
        stop = _mark(_("Stop: ends every completion"), f"training_stop_{key}", start.stop)
        st.caption(_("\\n is a line end. An empty field takes what is proposed."))
    return Marks(
        None if proposed and separator == proposed.separator else separator,
        None if proposed and stop == proposed.stop else stop,
    )


_COMPLETION, _CHAT = "completion", "chat"
_FORMATS = {_COMPLETION: mark("Prompt and completion"), _CHAT: mark("Chat")}


def _mark(title: str, key: str, proposed: str | None) -> str | None:
    shown = st.text_input(title, (proposed or "").replace("\n", "\\n"), max_chars=50, key=key)
    return shown.replace("\\n", "\n") or None


def _preparation(chosen: DatasetSummary, marks: Marks) -> None:
    """Findings as a list, then two lines of the file with separator and stop visible."""
    prepared = cached.prepared(chosen.id, chosen.done, marks)
    for finding in prepared.report:
        st.markdown(f":material/check: {plain(told(str(finding)))}")
    if marks.file_format == "chat":
        st.caption(_("So the model reads each row like this: the prompt as the user, the story as the answer."))
    else:
        st.caption(_("So the model reads each row like this: the prompt, its separator, the story, its stop."))
    for line in prepared.lines[:_SHOWN_EXAMPLES]:
        st.code(_shortened(line), language=None, wrap_lines=True)


def _shortened(line: str) -> str:
    """A line of the file with the middle of its story left out, so that both ends show."""
    row = json.loads(line)
    holder, name = (row["messages"][-1], "content") if "messages" in row else (row, "completion")
    text = holder[name]
    if len(text) > _SHOWN_START + _SHOWN_END:
        holder[name] = f"{text[:_SHOWN_START]} … {text[-_SHOWN_END:]}"
    return json.dumps(row, ensure_ascii=False)


def _form(chosen: DatasetSummary, marks: Marks) -> None:
    """Base, suffix and the three numbers, each of which may stay automatic; then one button."""
    with st.container(border=True):
        st.markdown(_("**3 · The job**"))
        base = models.picker(
            _("Start from"),
            "training_base",
            prefer="gemma-3-270m",
            among=cached.trainable(),
            help=_("A base model; or one that you tuned before, to train it further."),
        )
        if base is None:
            models.none_yet()
            return
        suffix = st.text_input(
            _("Suffix: becomes part of the model's name"),
            "",
            max_chars=40,
            key="training_suffix",
            placeholder=_("for example ultraman"),
            persist_state="session",
        )
        epochs = _auto(_("Epochs"), "training_epochs", 3, 1, 50)
        batch = _auto(_("Batch size"), "training_batch", 4, 1, 256)
        rate = _auto(_("Learning rate multiplier"), "training_rate", 1.0, 0.01, 10.0)
        form = JobForm(
            dataset_id=chosen.id,
            name=suffix or chosen.name,
            provider=base.provider,
            base_model=base.id,
            suffix=suffix or None,
            n_epochs=None if epochs is None else int(epochs),
            batch_size=None if batch is None else int(batch),
            learning_rate_multiplier=rate,
            seed=None,
            file_format=marks.file_format,
            separator=marks.separator,
            stop=marks.stop,
        )
        _price(base, chosen, form)
        st.button(
            n_("Train on {n} row", "Train on {n} rows", chosen.done),
            type="primary",
            icon=":material/model_training:",
            width="stretch",
            key="training_submit",
            on_click=_submit,
            args=(form,),
        )


def _auto(title: str, key: str, start: float, least: float, most: float) -> float | None:
    """A number that stays automatic until it is switched off."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        state.first(f"{key}_auto", True)
        automatic = st.toggle(_("{title}: automatic").format(title=title), key=f"{key}_auto", persist_state="session")
        if automatic:
            return None
        return float(
            st.number_input(
                title,
                type(start)(least),
                type(start)(most),
                value=start,
                key=key,
                label_visibility="collapsed",
                width=140,
                persist_state="session",
            )
        )


def _price(base: ModelInfo, chosen: DatasetSummary, form: JobForm) -> None:
    marks = Marks(form.separator, form.stop, form.file_format)
    tokens = cached.training_tokens(chosen.id, chosen.done, marks, base.id)
    guess = estimate.training(cached.prices(), base.provider, base.id, tokens=tokens, epochs=form.n_epochs or 3)
    views.facts(
        (
            _("about {tokens} tokens").format(tokens=about(guess.trained_tokens)),
            _("free on this machine") if guess.local else usd(guess.cost_usd),
            _("training can be started until {day}").format(day=guess.last_day) if guess.last_day else "",
        )
    )


def _submit(form: JobForm) -> None:
    with cards.errors_kept():
        jobs.submit(cached.store(), LOCAL, form)
        state.put("training_part", "jobs")
