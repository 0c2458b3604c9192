"""Dialog for a job's model files: export in a form, progress, proof, download, delete. Jobs of the engine only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Concatenate, ParamSpec

import streamlit as st

from core.actor import Actor
from core.db.store import Store
from core.errors import FabulaError
from core.finetuning.job_views import JobView
from core.providers import Client, engine_exports
from core.providers.engine_exports import EXPORT_FORMS, EngineExport, EngineExports, ExportForm, ParityFigure
from core.providers.registry import ENGINE
from pages.ui import cache, state, visible
from pages.ui.cache import shared
from pages.ui.components import cards
from pages.ui.i18n import _, as_markdown, code, mark, number, percent
from pages.ui.settings.base_figures import gigabytes
from pages.ui.sign_in import current_actor

_OPEN, _FORM, _PROBLEM = "training_export", "training_export_form", "training_export_problem"
P = ParamSpec("P")
_POLL_S = 2  # the engine's process writes its progress twice a second
_DOWNLOAD_BYTES = 64_000_000  # larger files would fill the studio's memory
_SMALL_BYTES = 100_000  # smaller files would be shown as 0.0 MB
_KL_DIGITS, _LEAST_KL, _COARSE_KL = 5, 0.00001, 0.1  # from the last on, two digits are enough
_FAR_KL = 0.1  # mean KL; a small model's file of 4 bits at 0.23 lost the form of its stories, 8 bits at 0.0002 did not
_FORMS: dict[ExportForm, str] = {
    "gguf-q8_0": mark("GGUF, 8 bits (Q8_0)"),
    "gguf-q4_k_m": mark("GGUF, 4 bits (Q4_K_M)"),
    "gguf-f16": mark("GGUF, 16 bits (F16)"),
    "gguf-adapter": mark("GGUF adapter"),
    "safetensors": mark("Hugging Face folder (safetensors)"),
    "peft": mark("PEFT adapter"),
}
_USES: dict[ExportForm, str] = {
    "gguf-q8_0": mark("One file for Ollama and llama.cpp, with a Modelfile. Small, and close to the trained model."),
    "gguf-q4_k_m": mark("One file for Ollama and llama.cpp, with a Modelfile. Smallest, and least exact."),
    "gguf-f16": mark("One file for Ollama and llama.cpp, with a Modelfile. The trained model itself."),
    "gguf-adapter": mark("Only the training, for llama.cpp and Ollama. Needs the base model's GGUF file."),
    "safetensors": mark("The trained model itself, for transformers and vLLM."),
    "peft": mark("Only the training, for PEFT and vLLM. Needs the base model's folder."),
}
_STATES = {
    "waiting": mark("waiting; exports are written one after another"),
    "writing": mark("writing files"),
    "checking": mark("comparing with the trained model"),
}


def button(job: JobView) -> bool:
    """Render the button that opens the dialog; returns whether it was clicked. Nothing for other providers."""
    if job.provider != ENGINE or job.fine_tuned_model is None:
        return False
    return st.button(
        _("Model files"), icon=":material/deployed_code:", key="training_export_open", on_click=state.set_value,
        args=(_OPEN, job.id), help=_("For Ollama, llama.cpp, transformers and vLLM."),
    )  # fmt: skip


def show() -> None:
    """Render the dialog, if it is open."""
    if state.get(_OPEN):
        st.dialog(_("Model files"), width="large", icon=":material/deployed_code:", on_dismiss=_close)(_body)()


def _close() -> None:
    state.set_value(_OPEN, "")
    state.set_value(_PROBLEM, None)


@st.fragment(run_every=_POLL_S)
def _body() -> None:
    with cards.show_errors():
        job = next((one for one in visible.job_list() if one.id == state.get(_OPEN)), None)
        if job is None or job.fine_tuned_model is None:  # it was deleted or is no longer shared
            st.caption(_("This training job no longer exists."))
            return
        if isinstance(problem := state.get(_PROBLEM), FabulaError):
            cards.error_card(problem)
        found = listed(job.fine_tuned_model)
        _choice(job, found)
        for export in reversed(found.exports):
            _export(job, export)


@shared(ttl=1.0, max_entries=8)
def listed(model: str) -> EngineExports:
    """A model's exports, read at most once a second for all visitors.

    Raises:
        FabulaError: the engine does not answer.
    """
    return engine_exports.listed(cache.quick(ENGINE), model)


def _choice(job: JobView, found: EngineExports) -> None:
    forms = sorted(EXPORT_FORMS, key=list(_FORMS).index)
    form: ExportForm = st.selectbox(
        _("Format"), forms, format_func=lambda one: _form_label(one, found.estimated.get(one)), key=_FORM
    )
    st.caption(_(_USES[form]))
    size = found.estimated.get(form, 0)
    if size > found.disk_free_bytes:
        st.warning(
            _("The engine's disk has {free} free; this needs about {size}. Delete old exports or free some space.")
            .format(free=gigabytes(found.disk_free_bytes), size=gigabytes(size)),
            icon=":material/hard_drive:",
        )  # fmt: skip
    st.button(
        _("Export"), type="primary", icon=":material/output:", key="training_export_start", on_click=_start,
        args=(job,), disabled=any(one.form == form and one.state != "failed" for one in found.exports),
    )  # fmt: skip


def _form_label(form: ExportForm, size: int | None) -> str:
    return f"{_(_FORMS[form])} · {gigabytes(size)}" if size else _(_FORMS[form])


def _export(job: JobView, export: EngineExport) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            size = f" · {gigabytes(export.size)}" if export.state == "ready" else ""
            st.markdown(f"**{_(_FORMS[export.form])}**{size}", width="content")
            st.button(
                _("Cancel") if export.is_active else _("Delete"),
                icon=":material/close:" if export.is_active else ":material/delete:",
                key=f"training_export_remove_{export.id}", on_click=_remove, args=(job, export),
            )  # fmt: skip
        if export.is_active:
            st.progress(export.share, text=_(_STATES[export.state]))
        elif export.state == "failed":
            st.error(as_markdown(export.error), icon=":material/error:")
        else:
            _ready(job, export)


def _ready(job: JobView, export: EngineExport) -> None:
    """Render the proof, where the files are, and downloads of small ones."""
    for figure in export.proof:
        _proof(figure)
    st.caption(_("README.md is the model card: how the model was trained, how to write prompts, and how to run it."))
    with st.container(horizontal=True):
        for name, size in export.files:
            if size <= _DOWNLOAD_BYTES:
                st.download_button(
                    _file_label(name, size), data=partial(_content, job.id, export.id, name), file_name=name,
                    key=f"training_export_file_{export.id}_{name}", icon=":material/download:", on_click="ignore",
                )  # fmt: skip
    if large := [name for name, size in export.files if size > _DOWNLOAD_BYTES]:
        names = ", ".join(map(code, large))
        if current_actor().has("admin"):
            st.caption(_("{names} is too large for a download here. On the engine's machine:").format(names=names))
            st.code(export.path, language=None)
        else:
            st.caption(_("{names} is too large for a download here. Ask an admin for the file.").format(names=names))


def _proof(figure: ParityFigure) -> None:
    far = figure.mean_kl > _FAR_KL
    sentence = _(
        "Compared with the trained model in {program} after {n} prompts: the same most likely next token in {same}, KL "
        "divergence {mean} on average, at most {most}"
    ).format(
        program=figure.program, n=number(figure.prompts), same=percent(figure.same_top, 0), mean=_kl(figure.mean_kl),
        most=_kl(figure.max_kl),
    )  # fmt: skip
    st.markdown(
        f"{':orange[:material/warning:]' if far else ':green[:material/verified:]'} {sentence}",
        help=_("How far the file's probabilities of the next token are from the trained model's: 0 means the same."),
    )
    if far:
        st.caption(
            _("This file writes noticeably differently from the trained model. Use 8 or 16 bits, or read some answers.")
        )


def _kl(value: float) -> str:
    """A KL divergence; one that is rounding is shown as less than the last digit."""
    if value >= _COARSE_KL:
        return number(value, 2)
    return number(value, _KL_DIGITS) if value >= _LEAST_KL else f"< {number(_LEAST_KL, _KL_DIGITS)}"


def _file_label(name: str, size: int) -> str:
    return f"{name} ({gigabytes(size)})" if size >= _SMALL_BYTES else name


def _content(job_id: str, export_id: str, name: str) -> bytes:
    return engine_exports.file(cache.store(), current_actor(), cache.client(ENGINE), job_id, export_id, name)


def _start(job: JobView) -> None:
    form = next((one for one in EXPORT_FORMS if one == state.get(_FORM)), None)
    if form is None or job.fine_tuned_model is None:
        return
    _act(engine_exports.start, job.id, job.fine_tuned_model, form, job.stop)


def _remove(job: JobView, export: EngineExport) -> None:
    _act(engine_exports.remove, job.id, export)


def _act(action: Callable[Concatenate[Store, Actor, Client, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Run an action; an error is shown in the dialog, which covers the page."""
    state.set_value(_PROBLEM, None)
    try:
        action(cache.store(), current_actor(), cache.quick(ENGINE), *args, **kwargs)
    except FabulaError as error:
        state.set_value(_PROBLEM, error)
    finally:
        listed.clear()
