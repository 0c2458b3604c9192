"""New job: pick rows, see what preparation found and will do, set the few numbers, submit once."""

from __future__ import annotations

import json

import streamlit as st

from core.actor import LOCAL
from core.cost import estimate
from core.dataset.datasets import DatasetSummary
from core.providers import ModelInfo
from core.training import jobs
from core.training.jobs import JobForm
from pages.ui import cached, cards, models, rows, state, upload, views
from pages.ui.lang import _, about, n_, plain, told, usd

_SHOWN_EXAMPLES = 2
_SHOWN_START, _SHOWN_END = 40, 24  # characters of a story


def show() -> None:
    """The whole part."""
    ready = [one for one in cached.dataset_list() if one.done]
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
                    _preparation(chosen)
    with right:
        if chosen is not None:
            _form(chosen)


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
        format_func=lambda one: rows.label(by_id[one]),
        key="training_dataset",
        persist_state="session",
    )
    return by_id[str(key)]


def _opened(dataset_id: str) -> None:
    state.put("training_dataset", dataset_id)


def _preparation(chosen: DatasetSummary) -> None:
    """Findings as a list, then two lines of the file with separator and stop visible."""
    prepared = cached.prepared(chosen.id, chosen.done)
    for finding in prepared.report:
        st.markdown(f":material/check: {plain(told(str(finding)))}")
    st.caption(_("So the model reads each row like this: the prompt, its separator, the story, its stop."))
    for line in prepared.lines[:_SHOWN_EXAMPLES]:
        st.code(_shortened(line), language=None, wrap_lines=True)


def _shortened(line: str) -> str:
    """A line of the file with the middle of its story left out, so that both ends show."""
    row = json.loads(line)
    text = row.get("completion", "")
    if len(text) > _SHOWN_START + _SHOWN_END:
        row["completion"] = f"{text[:_SHOWN_START]} … {text[-_SHOWN_END:]}"
    return json.dumps(row, ensure_ascii=False)


def _form(chosen: DatasetSummary) -> None:
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
    tokens = cached.training_tokens(chosen.id, chosen.done, base.id)
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
