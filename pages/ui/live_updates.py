"""Fragments that the server reruns when what they show has changed, instead of a timer in every open tab.

A timer runs the fragment's script once per interval and tab even if nothing changes; with a hundred open tabs that is
most of what an idle server does. Here one task per server reads each followed value every few seconds, once for all
tabs, and reruns the fragments that show an older one. For what changes every second, a timer is simpler.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread
from streamlit import runtime
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_run_context import ThreadState

P = ParamSpec("P")
T = TypeVar("T")

CHECK_S = 3.0  # states rarely change; three seconds still feel live
_TICK_S = 0.5

_log = logging.getLogger("fabula.sessions")
_Value = tuple[Callable[..., object], tuple[Hashable, ...]]  # a function and its arguments
_Place = tuple[str, str]  # Streamlit's session, fragment


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a fragment shows: the value, and what it was when the fragment was rendered."""

    value: _Value
    seen: object


_shown: dict[_Place, _Shown] = {}


def follow(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`read(*args)`; the fragment that calls this is rerun when it changes. A fragment can follow one value.

    Args:
        read: called here and, every few seconds, in another thread; so it must not depend on the visitor. Its result
            has to be comparable with `==`.
        args: hashable arguments.
        kwargs: none; only for the signature.
    """
    try:
        found = read(*args, **kwargs)
    except Exception as exc:
        _remember((read, args), _problem(exc))
        raise
    _remember((read, args), found)
    return found


def _remember(value: _Value, seen: object) -> None:
    context = get_script_run_ctx()
    fragment_id = ThreadState.get().fragment_id if context is not None else None
    if context is not None and fragment_id is not None:
        _shown[context.session_id, fragment_id] = _Shown(value, seen)


async def rerun_changed() -> None:
    """Until cancelled, rerun fragments whose value has changed."""
    read_at: dict[_Value, float] = {}
    while True:
        await anyio.sleep(_TICK_S)
        _forget_gone()
        now = time.monotonic()
        due = {place: one for place, one in _shown.items() if read_at.get(one.value, 0.0) <= now - CHECK_S}
        read_at = {value: at for value, at in read_at.items() if at > now - CHECK_S}
        read_at |= {one.value: now for one in due.values()}
        try:
            for place in await anyio.to_thread.run_sync(_changed, due) if due else ():
                _rerun(*place)
        except Exception:  # a fault here must not end the server, only this round
            _log.exception("Open tabs were not updated.")


def _forget_gone() -> None:
    """Drop fragments that are no longer on their tab's page, and closed tabs, whose script runs if they come back."""
    for session_id, fragment_id in list(_shown):
        session = _session(session_id)
        if session is None or not session.has_fragment(fragment_id):
            _shown.pop((session_id, fragment_id), None)


def _changed(shown: Mapping[_Place, _Shown]) -> list[_Place]:
    """The fragments that show something else than what is read now; each value is read once."""
    now = {value: _read(*value) for value in {one.value for one in shown.values()}}
    return [place for place, one in shown.items() if now[one.value] != one.seen]


def _read(read: Callable[..., object], args: tuple[Hashable, ...]) -> object:
    try:
        return read(*args)
    except Exception as exc:  # the fragment shows it
        return _problem(exc)


def _problem(error: Exception) -> tuple[str, str]:
    return type(error).__name__, str(error)


def _rerun(session_id: str, fragment_id: str) -> None:
    """Rerun a fragment as its timer would; not while its tab's script runs, which may be leaving the page."""
    session = _session(session_id)
    if session is None or session._scriptrunner is not None:
        return
    _shown.pop((session_id, fragment_id), None)
    state = ClientState()
    state.CopyFrom(session._client_state)
    state.fragment_id, state.is_auto_rerun = fragment_id, True
    session.request_rerun(state)


def _session(session_id: str) -> AppSession | None:
    """The session of an open tab."""
    info = runtime.get_instance()._session_mgr.get_active_session_info(session_id)
    return info.session if info is not None else None
