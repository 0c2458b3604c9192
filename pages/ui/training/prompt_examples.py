"""The examples that are in a prompt, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.evaluation.few_shot import PromptExample
from pages.ui.i18n import _, n_


def show(found: Sequence[PromptExample], key: str) -> None:
    """Render the examples; nothing if there are none."""
    if not found:
        return
    title = n_("{n} example from the training rows", "{n} examples from the training rows", len(found))
    with st.expander(title, icon=":material/format_list_numbered:", key=key):
        st.caption(_("The same for every row, in this order. Three examples are the first three."))
        st.dataframe(
            pd.DataFrame([{"prompt": one.prompt, "answer": one.answer} for one in found]),
            hide_index=True,
            height="content",
            column_config={
                "prompt": st.column_config.TextColumn(_("Prompt")),
                "answer": st.column_config.TextColumn(_("Answer")),
            },
            alt=_("Examples in the prompt"),
        )
