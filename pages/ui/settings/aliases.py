"""Other names for the engine's models, for programs that ask for a model of OpenAI: lists, adds and removes them."""

from __future__ import annotations

import streamlit as st

from core.pricing import shutdown
from core.providers import engine_aliases
from core.providers.engine_aliases import EngineAlias
from core.providers.registry import ENGINE
from pages.ui import cache, state, visible
from pages.ui.cache import shared
from pages.ui.components import cards, shutdown_notes
from pages.ui.i18n import _, code
from pages.ui.sign_in import current_actor

_NAME, _MODEL = "settings_alias_name", "settings_alias_model"
_EXAMPLE = "gpt-4o-mini"


def section() -> None:
    """Render the aliases and the form for a new one; for admins only, because an alias names any member's model."""
    if not current_actor().has("admin"):
        return
    with st.expander(_("Aliases"), icon=":material/badge:", key="settings_aliases"):
        st.caption(
            _(
                "A program that asks the engine for an alias gets the model you choose. A program written for OpenAI "
                "then needs only the engine's address and key."
            )
        )
        with cards.show_errors():
            for alias in listed():
                _row(alias)
            _form()


@shared(ttl=1.0, max_entries=4)
def listed() -> tuple[EngineAlias, ...]:
    """The engine's aliases, read at most once a second for all visitors.

    Raises:
        FabulaError: the engine does not answer.
    """
    return engine_aliases.listed(cache.quick(ENGINE))


def _row(alias: EngineAlias) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(_("{alias} → {model}").format(alias=code(alias.id), model=code(alias.model)))
        st.button(
            _("Remove"), icon=":material/delete:", key=f"settings_alias_remove_{alias.id}", on_click=_remove,
            args=(alias.id,),
        )  # fmt: skip
    shutdown_notes.show(shutdown.OPENAI, alias.id)
    if alias.status == "missing_model":
        st.warning(
            _(
                "This model was deleted, so requests for the alias fail. Save the alias with another model, or remove "
                "it."
            ),
            icon=":material/link_off:",
        )
    elif alias.status == "hidden":
        st.warning(_("A model has the same name, so the alias has no effect."), icon=":material/visibility_off:")


def _form() -> None:
    models = [model.id for model in visible.models().found if model.provider == ENGINE]
    st.text_input(
        _("Alias"),
        key=_NAME,
        placeholder=_EXAMPLE,
        help=_("The name in the program. It can also be the id of a fine-tuned model that OpenAI no longer serves."),
    )
    st.selectbox(_("Model"), models, key=_MODEL)
    st.button(_("Save alias"), icon=":material/save:", key="settings_alias_save", on_click=_save)


def _save() -> None:
    alias, model = str(state.get(_NAME) or "").strip(), str(state.get(_MODEL) or "")
    with cards.keep_errors():
        engine_aliases.save(cache.store(), current_actor(), cache.quick(ENGINE), alias, model)
        listed.clear()
        state.set_value(_NAME, "")
        state.notify(
            ":material/badge:", _("{alias} now stands for {model}.").format(alias=code(alias), model=code(model))
        )


def _remove(alias: str) -> None:
    with cards.keep_errors():
        try:
            engine_aliases.remove(cache.store(), current_actor(), cache.quick(ENGINE), alias)
        finally:
            listed.clear()
        state.notify(":material/delete:", _("{name} was removed.").format(name=code(alias)))
