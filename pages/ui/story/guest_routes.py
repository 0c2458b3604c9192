"""`/guest/<token>`: the page of a guest, outside Streamlit, because a phone that only votes needs no session.

The token is the only permission. A cookie with a random secret tells browsers apart; it says nothing about the person.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from core.db.store import Store
from core.errors import FabulaError, NotFound, StorageFull
from core.i18n import translator
from core.languages import match
from core.message import msg
from core.stories import guest_votes
from pages.ui import cache
from pages.ui.story import guest_address, guest_page

T = TypeVar("T")
_COOKIE = "fabula_guest"
_COOKIE_S = 8 * 24 * 3600  # longer than any link is valid
_MAX_BODY = 200  # bytes: one field with an id
_AT_ONCE = 2  # one that computes, and one that waits for the database
_looks: RunVar[CapacityLimiter] = RunVar("looks of guests")
_votes: RunVar[CapacityLimiter] = RunVar("votes of guests")


def routes() -> list[Route]:
    """The routes of the app."""
    return [Route(guest_address.PATH + "/{token}", _guest, methods=["GET", "POST"])]


async def _guest(request: Request) -> Response:
    """GET shows the round; POST counts the vote and leads back to it."""
    known = request.cookies.get(_COOKIE)
    guest = known or secrets.token_urlsafe(16)
    try:
        response = await (_vote(request, known) if request.method == "POST" else _look(request, guest))
    except FabulaError as exc:
        response = _refusal(request, exc)
    response.headers.update(guest_page.HEADERS)
    response.set_cookie(
        _COOKIE, guest, max_age=_COOKIE_S, path=guest_address.PATH, secure=request.url.scheme == "https", httponly=True,
        samesite="lax",
    )  # fmt: skip
    return response


async def _look(request: Request, guest: str) -> Response:
    token = request.path_params["token"]
    view = await _in_thread(lambda store: guest_votes.look(store, token, guest), _looks)
    return HTMLResponse(guest_page.round_page(view, _language(request)))


async def _vote(request: Request, guest: str | None) -> Response:
    if not _same_origin(request):
        return Response(status_code=403)
    length = request.headers.get("content-length", "")  # browsers always send it; the server reads no more than that
    if not length.isdecimal() or int(length) > _MAX_BODY:
        return Response(status_code=413)
    if not guest:  # it would be someone else at each vote
        raise FabulaError(
            msg("Your browser keeps no cookies. Your vote was not counted."),
            msg("Allow cookies for this page, or open it in another browser."),
        )
    chosen = parse_qs((await request.body()).decode("ascii", "replace")).get(guest_page.FIELD, [""])[0]
    token = request.path_params["token"]
    story_id = None if chosen == guest_page.NONE else chosen
    await _in_thread(lambda store: guest_votes.vote(store, token, guest, story_id), _votes)
    return RedirectResponse(request.url.path, status_code=303)


def _refusal(request: Request, error: FabulaError) -> Response:
    """A page that says what happened, in the guest's language."""
    language = _language(request)
    if isinstance(error, StorageFull):  # its words are for the people who run the studio
        error = FabulaError(msg("Votes can't be counted at the moment."), msg("Try again in a minute."))
        status = 503
    else:
        status = 404 if isinstance(error, NotFound) else 409
    translated = translator(language).translated
    page = guest_page.message_page(translated(error.what), translated(error.next_step), language, back=status != 404)
    return HTMLResponse(page, status_code=status)


def _language(request: Request) -> str:
    return match(request.headers.get("accept-language"))


def _same_origin(request: Request) -> bool:
    """Whether the form is ours: another site must not vote with a guest's cookie. (Old browsers send no Origin.)"""
    origin = request.headers.get("origin")
    if origin is None or urlsplit(origin).netloc == request.headers.get("host"):
        return True
    return origin == cache.settings().guest_url  # behind a proxy that changes the host


async def _in_thread(work: Callable[[Store], T], queue: RunVar[CapacityLimiter]) -> T:
    """Run `work` in a thread. Only a few of a kind run at the same time, the others wait in the order of their arrival.

    Otherwise 40 threads would compete for the interpreter, and for SQLite's write lock, which goes to whoever asks just
    when it is free.
    """
    limiter = queue.get(None)  # each event loop has its own
    if limiter is None:
        queue.set(limiter := CapacityLimiter(_AT_ONCE))
    return await anyio.to_thread.run_sync(lambda: work(cache.store()), limiter=limiter)
