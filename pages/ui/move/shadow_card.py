"""Shadow: both models answer a share of the programs' calls, until enough of their answers agree."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core.actor import Actor
from core.db.store import Store
from core.db.tables import utcnow
from core.migrate import shadow, shadow_states
from core.migrate.shadow import PairView, ShadowForm, ShadowView
from core.providers import Registry
from core.providers.engine_aliases import Expected
from pages.ui import cache, state
from pages.ui.components import cards, models, views
from pages.ui.components.fields import number_field
from pages.ui.i18n import _, ago, as_markdown, code, n_, number, percent, plain
from pages.ui.settings import aliases
from pages.ui.sign_in import current_actor

_SHARE, _AUTO, _THRESHOLD, _CALLS, _FALLBACK, _DAYS = (
    f"move_shadow_{name}" for name in ("share", "auto", "threshold", "calls", "fallback", "days")
)
_MOST_CALLS, _MOST_DAYS = 100_000, 365
_USUAL_THRESHOLD, _USUAL_CALLS, _USUAL_DAYS = 95, 100, 30  # percent; calls; days
_MOST_THRESHOLD = round(100 * shadow.MAX_THRESHOLD)
_TEXT_CHARS = 400


def show(old: str, new: str | None, provider: str, now: Expected | None) -> None:
    """Render the comparison on the calls of programs.

    Args:
        new: the model that is chosen as the replacement.
        provider: id of the old model's provider; "" if its key is not stored.
        now: what the alias leads to; None if the engine does not respond.
    """
    found = shadow.newest(cache.store(), current_actor(), old)
    is_open = found is not None and found.state in shadow_states.OPEN
    if now is None and not is_open:
        return
    with st.expander(_("Compare on the calls of your programs first"), icon=":material/compare_arrows:",
                     key="move_shadow", expanded=is_open):  # fmt: skip
        if found is not None and is_open:
            st.fragment(run_every=cache.POLL_S)(_running)(old)
        elif now is not None:
            if found is not None:
                _ended(found, now)
            _form(old, new, provider, now)


def _form(old: str, new: str | None, provider: str, now: Expected) -> None:
    """Render the settings and the button that starts."""
    st.caption(
        _(
            "Your programs ask the engine for the old model and get its answers: the engine relays their calls to the "
            "old model's provider, with the key stored here. A share of them is answered by the new model too, in the "
            "background. Of these calls, messages, answers and times are stored, the newest 1,000 at most."
        )
    )
    if not provider:
        st.info(
            _("The engine needs the account's key. Add the account under Settings → Providers, then connect it."),
            icon=":material/key:",
        )
        return
    known = cache.registry().provider(provider)
    if not shadow.is_relayed(known):
        st.info(
            _(
                "{name} can't be relayed: its clients use addresses of their own, so changing the base URL is not "
                "enough. Compare both models under Training → Evaluation, then switch."
            ).format(name=plain(known.name)),
            icon=":material/info:",
        )
        return
    for key, value in ((_SHARE, 20), (_AUTO, False), (_FALLBACK, True)):
        state.set_default(key, value)
    _settings()
    st.button(
        _("Start comparing"), icon=":material/play_arrow:", key="move_shadow_start", disabled=new is None,
        on_click=_start, args=(old, new, provider, now),
    )  # fmt: skip


def _settings() -> None:
    st.slider(_("Share of the calls that the new model answers too (%)"), 0, 100, key=_SHARE, width=480)
    st.checkbox(_("Switch by itself when both models agree"), key=_AUTO)
    if state.get(_AUTO):
        with st.container(horizontal=True):
            number_field(_("Agreement, lower bound (%)"), _THRESHOLD, 1, _MOST_THRESHOLD, _USUAL_THRESHOLD, width=220)
            number_field(_("Calls compared, at least"), _CALLS, 1, _MOST_CALLS, _USUAL_CALLS, width=220)
        st.caption(
            _(
                "The mean agreement of all calls is above the lower bound with a probability of 97.5 %. No number of "
                "calls proves 100 %. You can go back at any time."
            )
        )
    st.checkbox(_("If the old model stops, answer with the new one"), key=_FALLBACK)
    number_field(_("Keep messages and answers (days)"), _DAYS, 1, _MOST_DAYS, _USUAL_DAYS, width=280)


def _entered() -> dict[str, int | float | bool | None]:
    return {
        "share": int(state.get(_SHARE, 20)),
        "threshold": int(state.get(_THRESHOLD, _USUAL_THRESHOLD)) / 100 if state.get(_AUTO) else None,
        "min_calls": int(state.get(_CALLS, _USUAL_CALLS)),
        "fallback": bool(state.get(_FALLBACK, True)),
        "keep_days": int(state.get(_DAYS, _USUAL_DAYS)),
    }


def _running(old: str) -> None:
    """Render the counts while they change, and what can be done."""
    cards.draw_page_if_left()
    found = shadow.newest(cache.store(), current_actor(), old)
    if found is None or found.state not in shadow_states.OPEN:
        st.rerun()
        return
    words = {
        "starting": _("Starting: the engine has not confirmed yet that it relays {old}."),
        "stopping": _("Stopping: the engine has not confirmed yet. It may still relay calls for {old}."),
        "flipping": _("Switching to {new}: the engine has not confirmed yet. Calls for {old} may still be relayed."),
    }.get(found.state, _("Comparing {old} with {new} on {share} % of the calls."))
    st.markdown(words.format(old=code(old), new=code(found.form.model), share=found.form.share))
    _figures(found)
    if found.state == "on" and not found.relayed:
        st.caption(_("No program has asked yet. **Code for your programs**, below, shows what to change in them."))
    for text, icon in ((found.reason, ":material/event_busy:"), (found.note, ":material/hourglass_top:")):
        if text:
            st.caption(f"{icon} {as_markdown(text)}")
    if found.state == "on" and found.form.threshold is not None:
        st.caption(
            _("Switches by itself once the lower bound reaches {threshold} on at least {n} calls.").format(
                threshold=percent(found.form.threshold, 0), n=number(found.form.min_calls)
            )
        )
    _buttons(found)
    _differences(found)


def _buttons(found: ShadowView) -> None:
    is_on = found.state == "on"
    with st.container(horizontal=True):
        st.button(
            _("Switch now"), icon=":material/swap_horiz:", key="move_shadow_flip", on_click=_act,
            args=(shadow.flip, found.id), disabled=not is_on,
        )  # fmt: skip
        st.button(
            _("Stop relaying"), icon=":material/stop:", key="move_shadow_stop", on_click=_act,
            args=(shadow.stop, found.id), help=_("Programs that ask the engine for the old model then get an error."),
        )  # fmt: skip
        with st.popover(_("Settings"), icon=":material/tune:", disabled=not is_on):
            _load(found)
            _settings()
            st.button(_("Save"), icon=":material/save:", key="move_shadow_save", on_click=_save, args=(found.id,))


def _figures(found: ShadowView) -> None:
    agreed = found.agreement
    with st.container(horizontal=True, gap="medium", key="move_shadow_figures"):
        st.metric(_("Calls"), number(found.relayed), width=120)
        st.metric(_("Compared"), number(agreed.n), width=120)
        st.metric(
            _("Agreement"), percent(agreed.value) if agreed.n else "–", width=140,
            help=_("Equal labels, the share of equal JSON fields, or the similarity of texts (chrF)."),
        )  # fmt: skip
        st.metric(
            _("Lower bound"), percent(agreed.low) if agreed.n else "–", width=140,
            help=_("Holds with a probability of 97.5 %, however often you look."),
        )  # fmt: skip
        if found.old_s is not None and found.new_s is not None:
            st.metric(_("Old / new, mean time"), f"{found.old_s:.1f} / {found.new_s:.1f} s", width=190)
    facts = [
        n_("{n} call failed", "{n} calls failed", found.failed) if found.failed else "",
        n_("{n} call not compared", "{n} calls not compared", found.dropped) if found.dropped else "",
        n_("{n} call lost: its cost is unknown", "{n} calls lost: their costs are unknown", found.lost)
        if found.lost
        else "",
    ]
    if any(facts):
        st.caption(" · ".join(filter(None, facts)))


def _differences(found: ShadowView) -> None:
    """Render the calls whose answers differ, worst first, and the button that deletes what is stored."""
    worst = shadow.worst_pairs(cache.store(), current_actor(), found.id)
    for pair in worst:
        _pair(pair)
    if found.agreement.n and not worst:
        st.caption(_("No answers differ so far."))
    if found.pairs:
        with st.container(horizontal=True, vertical_alignment="center"):
            kept = n_("kept for {n} day", "kept for {n} days", found.form.keep_days)
            stored = n_("{n} call stored", "{n} calls stored", found.pairs)
            st.caption(f":material/database: {stored} · {kept}", width="content")
            st.button(
                _("Delete the stored calls"), icon=":material/delete:", type="tertiary", key="move_shadow_delete",
                on_click=_act, args=(shadow.delete_pairs, found.id),
            )  # fmt: skip


def _pair(pair: PairView) -> None:
    with st.container(border=True):
        st.caption(f"{percent(pair.score, 0)} · {plain(_short(pair.prompt))}")
        left, right = st.columns(2)
        left.markdown(f"{_('Old model')}: {plain(_short(pair.old))}")
        right.markdown(f"{_('New model')}: {plain(_short(pair.new if pair.new is not None else pair.error))}")


def _short(text: str) -> str:
    return views.shortened(text, _TEXT_CHARS)


def _ended(found: ShadowView, now: Expected) -> None:
    """Render how the last comparison has ended, and the way back to the old model."""
    when = "" if found.ended_at is None else ago(found.ended_at, utcnow())
    words = {
        "flipped": _("The new model took over {when}."),
        "dark": _("The old model has stopped. The new one took over {when}."),
    }.get(found.state, _("The last comparison was stopped {when}."))
    st.markdown(words.format(when=when))
    if found.reason:
        st.caption(as_markdown(found.reason))
    if not found.settled:
        st.caption(_("Calls that were in progress are still being collected."))
    _figures(found)
    if found.state in ("flipped", "dark") and now.model == found.form.model:
        st.button(
            _("Go back to the old model"), icon=":material/undo:", key="move_shadow_back", on_click=_act,
            args=(shadow.resume, found.id),
        )  # fmt: skip
    _differences(found)


def _load(found: ShadowView) -> None:
    """Fill the settings with those of the running comparison, once."""
    if state.get("move_shadow_loaded") == found.id:
        return
    form = found.form
    values = {
        _SHARE: form.share, _AUTO: form.threshold is not None, _THRESHOLD: round(100 * (form.threshold or 0.95)),
        _CALLS: form.min_calls, _FALLBACK: form.fallback, _DAYS: form.keep_days, "move_shadow_loaded": found.id,
    }  # fmt: skip
    for key, value in values.items():
        state.set_value(key, value)


def _start(old: str, new: str, provider: str, now: Expected) -> None:
    entered = _entered()
    with cards.keep_errors():
        form = ShadowForm(old, new, provider, **entered)  # type: ignore[arg-type]  # each name has its type
        shadow.start(cache.store(), current_actor(), cache.registry(), form, now)
        aliases.listed.clear()
        state.notify(
            ":material/compare_arrows:",
            _("The engine now relays {old} and compares it with {new}.").format(
                old=code(old), new=plain(models.short_name(new))
            ),
        )


def _save(shadow_id: str) -> None:
    with cards.keep_errors():
        shadow.change(cache.store(), current_actor(), shadow_id, **_entered())  # type: ignore[arg-type]  # as above
        state.notify(":material/save:", _("Saved"))


def _act(action: Callable[[Store, Actor, Registry, str], object], shadow_id: str) -> None:
    """Callback of the buttons: carry out an action on the engine."""
    with cards.keep_errors():
        try:
            action(cache.store(), current_actor(), cache.registry(), shadow_id)
        finally:
            aliases.listed.clear()
