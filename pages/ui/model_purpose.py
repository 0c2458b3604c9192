"""What a model is for: one line under its picker, with a button for a sample."""

from __future__ import annotations

import streamlit as st

from core.languages import CHINESE, ENGLISH
from core.model_profile import model_purpose
from core.model_profile.model_purpose import Purpose, purpose_of
from core.providers import ModelInfo
from pages.ui import cached, model_sample
from pages.ui.lang import _, code, column_name, mark, n_, plain

_SENTENCES = {
    "instructions": mark("Follows instructions."),
    "base": mark("Base model: continues text, does not follow instructions."),
    "unknown": mark("This model's purpose is unknown."),
}
_LANGUAGES = {ENGLISH: mark("English"), CHINESE: mark("Chinese")}


def of(info: ModelInfo) -> Purpose:
    """The purpose of a model, from the ledger, the price list and its name."""
    training = cached.training_of(info.provider, info.id)
    price = cached.prices().find(info.provider, info.id)
    priced = price is not None and not price.local and price.output_per_mtok is not None
    return purpose_of(info, None if training is None else training.facts, priced=priced)


def show(info: ModelInfo, key: str) -> None:
    """The line, and the button that writes a sample; `key` distinguishes several pickers on a page."""
    purpose = of(info)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key}_purpose"):
        st.caption(sentence(purpose), width="content")
        model_sample.button(info, purpose, key)
    model_sample.show(info, key)


def sentence(purpose: Purpose) -> str:
    """What a model is for, in one sentence."""
    if purpose.kind == "stories":
        language = purpose.language or ""
        names = dict.fromkeys(
            column_name(column.name).replace("_", " ")
            for preset in model_purpose.presets_of(language)
            for column in preset.recipe.columns
        )
        return _("Writes stories of the kind it was trained on ({language}: {columns}).").format(
            language=_(_LANGUAGES[language]), columns=_(", ").join(names)
        )
    if purpose.kind != "tuned":
        return _(_SENTENCES[purpose.kind])
    if purpose.dataset is None:
        return _("Tuned from {base}. Its training data is unknown.").format(base=code(purpose.base or _("unknown")))
    if purpose.rows is None:
        return _("Trained on {dataset}.").format(dataset=plain(purpose.dataset))
    rows = n_("{n} row", "{n} rows", purpose.rows)
    return _("Trained on {dataset}, {rows}.").format(dataset=plain(purpose.dataset), rows=rows)
