"""The before-and-after comparison: a job's base and new model side by side, on prompts not used in training."""

from __future__ import annotations

import streamlit as st

from core.evaluation import before_after, before_after_prompts
from core.evaluation.before_after import AnswerPair, BeforeAfterView, SideAnswer
from core.finetuning.job_views import JobView
from core.pricing.prices import ENGINE
from pages.ui import background, cache, state
from pages.ui.components import cards, models, views
from pages.ui.i18n import _, as_markdown, mark, n_, number, plain, sentences, usd, usd_at_most
from pages.ui.sign_in import current_actor
from pages.ui.training import cached_training

_KEY = "training_before_after"
_SOURCES = {
    "held_out": mark("These rows were not used for training."),
    "grid": mark(
        "All rows were used for training, so these are combinations of values that are not in the training data."
    ),
    "preset": mark("All rows were used for training, so these prompts have values that are not in the training data."),
    "tools": mark(
        "All held-out rows have tools, and calls of tools can't be shown here: an evaluation compares them. Type your "
        "own prompt."
    ),
    "none": mark("The training data contains every prompt of this data set. Type your own prompt."),
}
_ENDINGS = {
    "length": mark("stopped at the token limit"),
    "content_filter": mark("stopped by the provider's filter"),
}


def show(job: JobView) -> None:
    """Render the section for a job that has succeeded; nothing for others."""
    if job.status != "succeeded" or job.fine_tuned_model is None or job.dataset_id is None:
        return
    st.subheader(_("Before and after"), anchor=False)
    with cards.show_errors():  # the rest of the job's page is still rendered
        _section(job)


def _section(job: JobView) -> None:
    view = before_after.get(cache.store(), job.id)
    if view is None:
        _invitation(job)
        return
    _state(job, view)
    for pair in view.pairs:
        with st.container(border=True):
            pair_of(job, pair, f"{_KEY}_{pair.position}")
            if pair.finished:
                remove_button(job.id, pair.position, "training")
    cards.undo_button("training")
    if view.source is not None:
        _own_prompt(job, view)


def pair_of(job: JobView, pair: AnswerPair, key: str) -> None:
    """Render one prompt with both models' answers."""
    views.prompt(pair.prompt, f"{key}_prompt")
    left, right = st.columns(2, gap="medium")
    with left:
        answer(_("Before"), job.base_model, pair.base, job.provider)
    with right:
        answer(_("After"), job.fine_tuned_model or "", pair.tuned, job.provider, job.base_model)
    if pair.expected is not None:
        with st.expander(_("Original text of the row (not used for training)"), key=f"{key}_expected"):
            views.story_text(pair.expected)


def remove_button(job_id: str, position: int, page: str) -> None:
    """Remove a prompt that both models have answered, with its answers; undo is on the same page."""
    st.button(
        _("Remove"), icon=":material/delete:", type="tertiary", key=f"{page}_remove_{position}",
        on_click=_remove, args=(job_id, position, page),
    )  # fmt: skip


def answer(title: str, model: str, side_answer: SideAnswer, provider: str = ENGINE, base: str | None = None) -> None:
    """Render a model's answer as it arrives, or why there is none. `base`: see `models.dated_name`."""
    st.markdown(f"**{title}** · {plain(models.dated_name(provider, model, base))}")
    if side_answer.text.strip():
        views.story_text(side_answer.text)
    elif side_answer.state == "done":
        st.caption(_("The model's answer was empty."))
    elif side_answer.state == "stopped":
        st.caption(_("Stopped before the first word."))
    elif side_answer.state != "failed":
        st.caption(_("Waiting for its turn…") if side_answer.state == "waiting" else _("Writing…"))
    if side_answer.reason:
        st.caption(f":material/error: {as_markdown(side_answer.reason)}")
    facts = [
        n_("{n} token", "{n} tokens", side_answer.completion_tokens) if side_answer.completion_tokens else "",
        _(_ENDINGS[side_answer.finish_reason]) if side_answer.finish_reason in _ENDINGS else "",
        usd(side_answer.cost_usd) if side_answer.cost_usd else "",
    ]
    if any(facts):
        views.facts(facts)


def _invitation(job: JobView) -> None:
    """Render, for paid providers and older jobs, a description, the price, and the button."""
    words = _("Both models answer three prompts that are not in the training data.")
    if job.provider != ENGINE:
        choice = background.wait_for_task(cached_training.unseen(job))
        if choice is None:
            return
        cost = before_after_prompts.estimate_usd(cache.prices(), job, choice)
        price = (
            _("Its cost is unknown: the provider's price is not in the list.")
            if cost is None
            else _("Costs {price}.").format(price=usd_at_most(cost))
        )
        words = sentences(words, price)
    st.markdown(words)
    st.button(
        _("Write before and after"),
        icon=":material/compare:",
        key=f"{_KEY}_start",
        on_click=cards.act,
        args=(before_after.start, job),
    )


def _state(job: JobView, view: BeforeAfterView) -> None:
    """Render the source of the prompts, the progress, and the buttons."""
    if view.source is not None:
        st.caption(_(_SOURCES.get(view.source, _SOURCES["held_out"])))
    if view.active:
        done = sum(pair.finished for pair in view.pairs)
        words = _("Choosing prompts…") if view.source is None else _("Waiting for the worker…")
        if view.state == "running" and view.pairs:
            words = _("Writing · {n} of {total} prompts done").format(n=number(done), total=number(len(view.pairs)))
        if view.reason:
            words += f" · {as_markdown(view.reason)}"
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":material/edit: {words}")
            st.button(
                _("Stop"), icon=":material/stop:", key=f"{_KEY}_stop", on_click=cards.act,
                args=(before_after.stop, job.id),
                disabled=view.state == "stopping",
            )  # fmt: skip
    elif view.state in ("failed", "stopped"):
        with st.container(horizontal=True, vertical_alignment="center"):
            reason = as_markdown(view.reason) if view.reason else _("Stopped. The text so far is kept.")
            icon = ":material/error:" if view.state == "failed" else ":material/stop_circle:"
            st.markdown(f"{icon} {reason}")
            st.button(
                _("Write again"),
                icon=":material/replay:",
                key=f"{_KEY}_again",
                on_click=cards.act,
                args=(before_after.retry, job.id),
            )


def _own_prompt(job: JobView, view: BeforeAfterView) -> None:
    """Render the field for an additional prompt."""
    if len(view.pairs) >= before_after_prompts.MAX_PROMPTS:
        return
    with (
        st.form(f"{_KEY}_form", clear_on_submit=True, border=False),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        example = views.shortened(view.pairs[0].prompt) if view.pairs else None
        st.text_input(_("Your own prompt"), key=f"{_KEY}_prompt", width=520, placeholder=example)
        st.form_submit_button(_("Ask both"), icon=":material/compare:", key=f"{_KEY}_ask", on_click=_ask, args=(job,))


def _ask(job: JobView) -> None:
    with cards.keep_errors():
        before_after_prompts.add_prompt(cache.store(), current_actor(), job, str(state.get(f"{_KEY}_prompt") or ""))


def _remove(job_id: str, position: int, page: str) -> None:
    with cards.keep_errors():
        store = cache.store()
        removed = before_after_prompts.remove(store, current_actor(), job_id, position)
        cards.offer_undo(
            ":material/delete:",
            _("Prompt removed"),
            lambda: before_after_prompts.restore(store, current_actor(), removed),
            page=page,
        )
