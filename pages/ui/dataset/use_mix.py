"""A mix of several data sets, each with its share, to train one model on several domains."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import streamlit as st

from core.actor import LOCAL
from core.datasets import mixing
from core.datasets.datasets import MAX_NAME, DatasetSummary
from core.datasets.importers import table
from core.errors import FabulaError
from pages.ui import cache, state
from pages.ui.components import cards, fields
from pages.ui.components.fields import number_field, text_field
from pages.ui.dataset import dataset_picker
from pages.ui.i18n import _, label, n_, pair, percent, plain

_LARGEST_SEED = 2**31 - 1
_LARGEST_SHARE = Decimal(1_000_000)
_MADE = "dataset_mix_made"


def show(chosen: DatasetSummary, others: Sequence[DatasetSummary]) -> None:
    """Draw the other data sets, their shares, the resulting rows, and the button."""
    by_id = {one.id: one for one in others}
    picked = st.multiselect(
        _("Other data sets"),
        list(by_id),
        format_func=lambda one: dataset_picker.label(by_id[one]),
        key="dataset_mix_others",
        placeholder=_("Choose at least one"),
    )
    if not picked:
        st.caption(
            _(
                "Train one model on several domains. Rows are drawn evenly from the cells of each data "
                "set; no row is used twice."
            )
        )
        return
    parts = [(one.id, _share(one)) for one in (chosen, *(by_id[id_] for id_ in picked))]
    all_rows = st.toggle(_("All available rows"), True, key="dataset_mix_whole")
    size = None if all_rows else number_field(_("Rows of the mix"), "dataset_mix_size", 1, table.MAX_ROWS, 100)
    seed = number_field(_("Seed (change it to draw other rows)"), "dataset_mix_seed", 0, _LARGEST_SEED)
    name = text_field(_("Name"), "dataset_mix_name", MAX_NAME, placeholder=_("the names of its data sets"))
    try:
        planned = mixing.plan(cache.store(), parts, size)
    except FabulaError as problem:
        cards.hint(problem)
        return
    for part in planned:
        rows_text = n_("{n} row", "{n} rows", part.rows)
        st.markdown(f"- {pair(plain(part.name), rows_text)} · {percent(part.share)}")
    count = sum(part.rows for part in planned)
    if st.button(n_("Mix {n} row", "Mix {n} rows", count), icon=":material/join:", key="dataset_mix"):
        with cards.show_errors(), st.spinner(_("Mixing"), show_time=True):
            _mix(name, parts, seed, size)
            st.rerun()


def open_made() -> None:
    """Open the mix that was just created. Call it before the data set picker is drawn."""
    if (mix_id := state.get(_MADE)) is not None:
        state.set_value("dataset_open", mix_id)
        state.set_value("dataset_mix_others", [])  # so that the next click does not mix the mix
        state.set_value(_MADE, None)


def _share(one: DatasetSummary) -> float:
    key = f"dataset_mix_share_{one.id}"
    fields.default_decimal(key, 1)
    share = fields.decimal_field(
        _("Share of {name}").format(name=label(one.name)),
        key,
        Decimal(0),
        _LARGEST_SHARE,
        help=_("Shares are relative: 2 and 1 mean two thirds and one third."),
    )
    return float(share.value or 0)  # 0 is rejected by the plan, with a reason


def _mix(name: str, parts: list[tuple[str, float]], seed: int, size: int | None) -> None:
    state.set_value(_MADE, mixing.mix(cache.store(), LOCAL, name, parts, seed, size))
    state.notify(":material/join:", _("The mix is saved as a new data set."))
    cache.refresh()
