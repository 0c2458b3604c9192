"""Switching programs over to a new model: the alias of the old one, the way back, and the code that changes."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import streamlit as st

from core.db.tables import utcnow
from core.migrate import snippets, switch
from core.migrate.switch import SwitchView
from core.migrate.tunes import Tune
from core.people import people
from core.providers.engine_aliases import AUTOMATIC, Expected
from core.providers.registry import ENGINE
from pages.ui import cache, state, visible
from pages.ui.components import cards, models
from pages.ui.i18n import _, ago, code, plain, sentences
from pages.ui.move import candidates, shadow_card
from pages.ui.settings import aliases
from pages.ui.sign_in import current_actor, is_team

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def show(tune: Tune, provider: str) -> None:
    """Render the card of one tuned model; nothing if its job made none. `provider`: of the old model; "" if unknown."""
    if tune.model is None:
        return
    with st.container(border=True, key="move_switch"):
        st.subheader(_("Switch programs over"), anchor=False)
        now = chosen = None
        with cards.show_errors():
            found = aliases.listed()
            switch.note_changes(cache.store(), current_actor(), found)
            now = switch.view(cache.store(), found, tune.model)
            _target(now)
            chosen = _choice(tune, now)
        with cards.show_errors():  # also while the engine does not respond: it may be relaying
            shadow_card.show(tune.model, chosen, provider, None if now is None else now.expected)
        with cards.show_errors():  # also if the old model's provider was removed
            _code(tune.model)


def _target(now: SwitchView) -> None:
    """Render what programs get now, since when and by whom."""
    if now.model is None:
        st.caption(
            _(
                "An alias on the engine has the old model's id and leads to the new one. A program then needs only "
                "the engine's address and key."
            )
        )
        return
    st.markdown(_("{alias} → {model}").format(alias=code(now.alias), model=code(now.model)))
    if now.since is not None:
        when = ago(now.since, utcnow())
        if not now.by:
            st.caption(_("Switched {when} through the engine's API.").format(when=when))
        elif now.by == AUTOMATIC:
            st.caption(_("Switched {when} by the comparison on calls.").format(when=when))
        elif is_team():
            name = plain(people.name_of(cache.store(), now.by))
            st.caption(_("Switched {when} by {name}.").format(when=when, name=name))
        else:
            st.caption(_("Switched {when}.").format(when=when))
    if now.status == "missing_model":
        st.warning(
            _("This model was deleted, so programs get an error. Choose another model, or go back."),
            icon=":material/link_off:",
        )
    elif now.status == "hidden":
        st.warning(_("A model has the same name, so the alias has no effect."), icon=":material/visibility_off:")


def _choice(tune: Tune, now: SwitchView) -> str | None:
    """Render the choice of the new model, and the buttons to switch and to go back. Returns the chosen model."""
    old = str(tune.model)
    offered, trained = _offered(tune)
    key = f"move_switch_to_{tune.id}"
    if state.get(key) not in offered:
        state.set_value(key, now.model if now.model in offered else next(iter(trained), None))
    chosen = st.selectbox(
        _("New model"), offered, None, key=key, width=480, disabled=not offered,
        format_func=lambda model: _label(model, trained),
        placeholder=_("Train a model on this data first") if offered else _("No model on the engine yet"),
    )  # fmt: skip
    with st.container(horizontal=True):
        st.button(
            _("Switch") if now.model is None else _("Switch to this model"), icon=":material/swap_horiz:",
            type="primary" if tune.state == "compared" and not candidates.is_shown(tune) else "secondary",
            key="move_switch_on", disabled=chosen in (None, now.model), on_click=_switch,
            args=(old, chosen, now.expected),
        )  # fmt: skip
        if now.model is not None:
            st.button(
                _back_label(now), icon=":material/undo:", key="move_switch_back", on_click=_back,
                args=(old, now.expected),
            )  # fmt: skip
    return chosen


def _offered(tune: Tune) -> tuple[list[str], list[str]]:
    """Models of the engine that can answer instead: first those trained on the old model's data, newest first; and
    those alone.
    """
    found = [one.id for one in visible.models().found if one.provider == ENGINE]
    jobs = sorted(visible.job_list(), key=lambda job: job.created_at, reverse=True)
    made = [job.fine_tuned_model for job in jobs if job.dataset_id == tune.dataset_id and job.id != tune.job_id]
    trained = [model for model in dict.fromkeys(made) if model in found] if tune.dataset_id is not None else []
    return [*trained, *(model for model in found if model not in trained)], trained


def _label(model: str, trained: Sequence[str]) -> str:
    name = models.short_name(model)
    return name if model in trained else _("{model} · not trained on this data").format(model=name)


def _back_label(now: SwitchView) -> str:
    if now.previous is None:
        return _("Go back: remove the alias")
    return _("Go back to {model}").format(model=models.short_name(now.previous))


def _switch(old: str, new: str, expected: Expected) -> None:
    with cards.keep_errors():
        try:
            switch.switch(cache.store(), current_actor(), cache.quick(ENGINE), old, new, expected)
        finally:
            aliases.listed.clear()
        state.notify(
            ":material/swap_horiz:",
            _("Programs that ask for {alias} now get {model}.").format(alias=code(old), model=code(new)),
        )


def _back(old: str, expected: Expected) -> None:
    with cards.keep_errors():
        try:
            model = switch.back(cache.store(), current_actor(), cache.quick(ENGINE), old, expected)
        finally:
            aliases.listed.clear()
        if model is None:
            said = _("The alias {alias} was removed.").format(alias=code(old))
        else:
            said = _("Programs that ask for {alias} now get {model}.").format(alias=code(old), model=code(model))
        state.notify(":material/undo:", said)


def _code(model: str) -> None:
    """Render the code for each SDK: only the address and the key differ from a program for OpenAI."""
    address = cache.registry().provider(ENGINE).base_url
    with st.expander(_("Code for your programs"), icon=":material/terminal:", key="move_switch_code"):
        st.caption(_("Only the address and the key change. The model keeps its name."))
        found = snippets.snippets(address, model)
        for snippet, tab in zip(found, st.tabs([_(one.sdk) for one in found]), strict=True):
            with tab:
                st.code(snippet.code, language=snippet.language, wrap_lines=True)
        notes = [
            _(
                "The key is the engine's token (`FABULA_ENGINE_TOKEN`); if you have not set one, it is in the file "
                "`engine.token` in `FABULA_HOME`."
            )
        ]
        if urlsplit(address).hostname in _LOOPBACK:
            notes.append(_("This address works for programs on the studio's machine only."))
        st.caption(sentences(*notes))
