"""The engine's base models: lists them with requirements, adds them from a hub, file or folder, and removes them. Their
aliases follow.
"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from core.providers import engine_bases
from core.providers.engine_bases import BaseSource, EngineBase, EngineBases
from core.providers.registry import ENGINE
from pages.ui import cache, live_updates, state
from pages.ui.cache import shared
from pages.ui.components import cards, views
from pages.ui.i18n import _, as_markdown, code, mark, n_, percent, plain, sentences
from pages.ui.settings import aliases, suggested_bases
from pages.ui.settings.base_figures import context, gigabytes, parameters, speed
from pages.ui.sign_in import current_actor

_DISK_DIGITS = -7  # free disk space is shown in tenths of a gigabyte, and changes all the time
_ORIGIN, _NAME, _SOURCE = "settings_base_origin", "settings_base_name", "settings_base_source"
_REVISION = "settings_base_revision"
_HUBS: tuple[BaseSource, ...] = ("huggingface", "modelscope")
_SOURCES: dict[BaseSource, str] = {
    "huggingface": mark("Hugging Face"),
    "modelscope": mark("ModelScope"),
    "file": mark("GGUF file"),
    "folder": mark("Folder"),
}
_FIELDS: dict[BaseSource, tuple[str, str, str]] = {
    "huggingface": (mark("Model on Hugging Face"), "Qwen/Qwen3-0.6B", ""),
    "modelscope": (mark("Model on ModelScope"), "Qwen/Qwen3-0.6B", ""),
    "file": (
        mark("Path of the GGUF file"),
        "/models/qwen3-0.6b-q8_0.gguf",
        mark("The path on the engine's machine. The file stays where it is: keep it there."),
    ),
    "folder": (
        mark("Path of the model folder"),
        "/models/Qwen3-0.6B",
        mark("A folder with config.json, .safetensors and tokenizer.json, on the engine's machine. Keep it there."),
    ),
}
_STATES = {
    "waiting": mark("Waiting"),
    "downloading": mark("Downloading"),
    "converting": mark("Converting for serving"),
    "checking": mark("Checking"),
}


def card() -> None:
    """Render the whole card; nothing while the engine is not running, because its own card gives the reason."""
    if cache.status().engine.state != "up":
        return
    with st.container(border=True):
        st.subheader(_("Base models"), anchor=False)
        st.caption(_("Models of the engine: they write on this machine, and you can fine-tune them."))
        _list()
        _add()
        aliases.section()


@shared(ttl=1.0, max_entries=4)
def listed() -> EngineBases:
    """The engine's base models, read at most once a second for all visitors.

    Raises:
        FabulaError: the engine does not answer.
    """
    found = engine_bases.listed(cache.quick(ENGINE))
    return replace(found, disk_free_bytes=round(found.disk_free_bytes, _DISK_DIGITS))


@st.fragment
def _list() -> None:
    """Render the bases with their figures and progress."""
    cards.draw_page_if_left()
    with cards.show_errors():
        found = live_updates.follow(listed)
        views.facts(
            (
                _("Memory: {size}").format(size=gigabytes(found.memory_bytes)),
                _("Free disk: {size}").format(size=gigabytes(found.disk_free_bytes)),
            )
        )
        if not found.bases:
            st.markdown(_("Only the packaged model is here. Add a larger one for better texts."))
        for base in found.bases:
            _row(base)
        ready = tuple(sorted(one.id for one in found.bases if one.state == "ready"))
        if state.get("settings_bases_ready", ready) != ready:
            cache.forget_models(ENGINE)  # pickers on other pages show a new base immediately
        state.set_value("settings_bases_ready", ready)


def _row(base: EngineBase) -> None:
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(f"**{code(base.id)}**")
            _actions(base)
        if base.is_active:
            words = _(_STATES[base.state])
            st.progress(base.share or 0.0, text=words if base.share is None else f"{words} · {percent(base.share, 0)}")
        if base.error:
            st.error(as_markdown(base.error), icon=":material/error:")
        views.facts(
            (
                plain(base.family),
                parameters(base.parameters),
                _("licence: {name}").format(name=plain(base.licence) if base.licence else _("unknown")),
                context(base.context, base.model_context),
                gigabytes(base.size_bytes),
                _("no checksum available") if base.no_checksum else "",
            )
        )
        if base.serving_bytes is not None and base.training_bytes is not None:
            views.facts(
                (
                    _("memory to write: {size}").format(size=gigabytes(base.serving_bytes)),
                    ""
                    if base.not_trainable
                    else _("memory to train: {size}").format(size=gigabytes(base.training_bytes)),
                    speed(base.tokens_per_s),
                    _("in the engine's folder: {size}").format(size=gigabytes(base.disk_bytes)),
                )
            )
        if base.not_trainable:
            st.caption(
                ":material/info: "
                + _("Can write, but can't be fine-tuned: {reason}.").format(reason=as_markdown(base.not_trainable))
            )


def _actions(base: EngineBase) -> None:
    """Cancel, or try again and remove."""
    if base.is_active:
        st.button(
            _("Cancel"), icon=":material/close:", key=f"settings_base_cancel_{base.id}", on_click=_remove,
            args=(base.id,),
        )  # fmt: skip
        return
    with st.container(horizontal=True, width="content"):
        if base.error:
            st.button(
                _("Try again"), icon=":material/refresh:", key=f"settings_base_retry_{base.id}", on_click=_retry,
                args=(base.id,),
            )  # fmt: skip
        with st.popover(_("Remove"), icon=":material/delete:", key=f"settings_base_menu_{base.id}"):
            st.markdown(_what_goes(base))
            st.button(
                _("Remove"), icon=":material/delete:", key=f"settings_base_remove_{base.id}", on_click=_remove,
                args=(base.id,), type="primary",
            )  # fmt: skip


def _what_goes(base: EngineBase) -> str:
    """What removing a base deletes, and what stops working."""
    freed = _("This frees {size}.").format(size=gigabytes(base.disk_bytes))
    kept = "" if base.source in _HUBS else _("Your own files stay where they are.")
    tuned = (
        n_(
            "{n} fine-tuned model needs it: that one stops working until you add it again under this name.",
            "{n} fine-tuned models need it: they stop working until you add it again under this name.",
            base.tuned_models,
        )
        if base.tuned_models
        else ""
    )
    return sentences(freed, kept, tuned)


def _add() -> None:
    """Render the form that adds a base: where it comes from, its name there, and its name here."""
    with st.expander(_("Add a base model"), icon=":material/add:", key="settings_base_add"):
        source = views.switch(_SOURCE, _("Where is it?"), {one: _(title) for one, title in _SOURCES.items()})
        chosen: BaseSource = next(one for one in _SOURCES if one == source)
        title, example, help_text = _FIELDS[chosen]
        if chosen == "huggingface":
            with cards.show_errors():
                suggested_bases.show(listed().suggested, _download)
        st.text_input(
            _(title), key=f"{_ORIGIN}_{chosen}", placeholder=example, help=_(help_text) if help_text else None
        )
        if chosen in _HUBS:
            st.text_input(
                _("Revision (optional)"), key=_REVISION,
                help=_("A branch, tag or commit. Leave it empty to use the default branch."),
            )  # fmt: skip
        st.text_input(
            _("Name here (optional)"),
            key=_NAME,
            help=_("The model id for jobs and requests. Leave it empty to use the model's name."),
        )
        if chosen in _HUBS:
            st.caption(
                _(
                    "Without a network, choose a file or a folder. For models with terms to accept, set `HF_TOKEN` "
                    "before you start Fabula; `HF_ENDPOINT` names a mirror."
                )
            )
        st.button(
            _("Download") if chosen in _HUBS else _("Add"),
            icon=":material/download:" if chosen in _HUBS else ":material/add:",
            key="settings_base_submit", on_click=_submit, args=(chosen,),
        )  # fmt: skip


def _submit(source: BaseSource) -> None:
    origin = str(state.get(f"{_ORIGIN}_{source}") or "").strip()
    name = str(state.get(_NAME) or "").strip()
    revision = str(state.get(_REVISION) or "").strip() if source in _HUBS else ""
    with cards.keep_errors():
        _start(source, origin, name, revision)
        for field in (f"{_ORIGIN}_{source}", _NAME, _REVISION):
            state.set_value(field, "")


def _download(repo: str) -> None:
    with cards.keep_errors():
        _start("huggingface", repo)


def _start(source: BaseSource, origin: str, name: str = "", revision: str = "") -> None:
    """Add a base; raises if the engine refuses it."""
    base = engine_bases.add(cache.store(), current_actor(), cache.quick(ENGINE), source, origin, name, revision)
    listed.clear()
    ready = base.state == "ready"
    words = _("{name} is already here.") if ready else _("{name} is being prepared.")
    state.notify(":material/add:", words.format(name=code(base.id)))


def _retry(base_id: str) -> None:
    with cards.keep_errors():
        engine_bases.retry(cache.store(), current_actor(), cache.quick(ENGINE), base_id)
        listed.clear()


def _remove(base_id: str) -> None:
    with cards.keep_errors():
        try:
            engine_bases.remove(cache.store(), current_actor(), cache.quick(ENGINE), base_id)
        finally:
            listed.clear()
            cache.forget_models(ENGINE)
        state.notify(":material/delete:", _("{name} was removed.").format(name=code(base_id)))
