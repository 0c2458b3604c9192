"""The page of a guest over HTTP: no account, no script, one vote per browser; and the audience of a presentation."""

from __future__ import annotations

import http.client
import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from core.actor import LOCAL
from core.db.store import Store, new_id
from core.db.tables import Story
from core.settings import Settings
from core.stories import guest_links, guest_votes
from core.stories.guest_links import OpenedLink
from core.stories.guest_votes import VoteCounts
from pages.ui.story import guest_address
from pages.ui.story.guest_server import GuestServer
from tests.support.waiting import at_once

_ENDED = "not valid any more"
_EVIL = '<script>alert(1)</script> & "quotes"'


@dataclass
class Browser:
    """A phone: keeps the cookie, follows nothing by itself."""

    port: int
    cookie: str = ""

    def send(
        self, method: str, token: str, body: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        connection.request(method, f"/guest/{token}", body, {name: value for name, value in sent.items() if value})
        answer = connection.getresponse()
        text = answer.read().decode()
        self.cookie = (answer.headers.get("set-cookie") or self.cookie).partition(";")[0]
        connection.close()
        return answer.status, text, answer.headers

    def look(self, token: str, **headers: str) -> str:
        status, text, _ = self.send("GET", token, headers=headers)
        assert status == 200
        return text

    def vote(self, token: str, story: str, **headers: str) -> int:
        return self.send("POST", token, urlencode({"story": story}), headers)[0]


@pytest.fixture
def port(store: Store) -> Iterator[int]:
    """The server of FABULA_GUEST_PORT."""
    server = GuestServer(0)
    server.start()
    yield server.port
    server.stop()


@pytest.fixture
def stories(store: Store) -> list[str]:
    with store.session() as session:
        rows = [
            Story(
                id=new_id(), actor="local", provider="engine", model=model, prompt="p", parameters={}, text=text,
                round_id="round-1",
            )
            for model, text in (("tuned-model", _EVIL), ("base-model", "第二个故事"))
        ]  # fmt: skip
        session.add_all(rows)
        return [row.id for row in rows]


@pytest.fixture
def link(store: Store, stories: list[str]) -> OpenedLink:
    return guest_links.open_link(store, LOCAL, "round-1", stories)


def test_a_guest_votes_and_sees_the_result(store: Store, port: int, link: OpenedLink, stories: list[str]) -> None:
    phone = Browser(port)
    page = phone.look(link.token)
    assert "Which story is best?" in page and "第二个故事" in page and "tuned-model" not in page
    assert phone.vote(link.token, stories[1]) == 303
    page = phone.look(link.token)
    assert "Thank you" in page and "100 % · 1 vote" in page and "refresh" in page
    assert phone.vote(link.token, "none") == 303
    assert guest_votes.tally(store, LOCAL, link.id) == VoteCounts((0, 0), 1)
    guest_votes.close_vote(store, LOCAL, link.id)
    assert "A · tuned-model" in (page := phone.look(link.token)) and "The vote has ended." in page
    assert phone.vote(link.token, stories[0]) == 409


def test_the_page_is_in_the_phones_language(port: int, link: OpenedLink) -> None:
    page = Browser(port).look(link.token, **{"Accept-Language": "zh-CN,zh;q=0.9"})
    assert 'lang="zh-CN"' in page and "哪个故事最好？" in page and not re.search("Which|best", page)


def test_stories_are_text_and_the_page_can_load_nothing(port: int, link: OpenedLink) -> None:
    _, page, headers = Browser(port).send("GET", link.token)
    assert "<script" not in page and "&lt;script&gt;" in page
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
    assert (headers["referrer-policy"], headers["cache-control"]) == ("same-origin", "no-store")
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/guest" in cookie


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_link_that_has_expired_or_never_was_says_so(
    store: Store, port: int, link: OpenedLink, stories: list[str], method: str
) -> None:
    guest_links.end_link(store, LOCAL, link.id)
    for token, sentence in ((link.token, _ENDED), ("x" * 22, _ENDED), ("%00", _ENDED), ("..%2f..", "Not Found")):
        status, page, _ = Browser(port, "fabula_guest=x").send(method, token, urlencode({"story": stories[0]}))
        assert status == 404 and sentence in page and "第二个故事" not in page
    assert guest_votes.tally(store, LOCAL, link.id).total == 0


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"story": "{0}"}, {"Origin": "https://evil.example"}, 403),
        ({"story": "{0}"}, {"Origin": "null"}, 403),
        ({"story": "x" * 1_000_000}, {}, 413),
        ({"story": "another"}, {}, 409),
        ({}, {}, 409),
        ({"story": "é" * 10}, {}, 409),
    ],
)
def test_a_vote_that_is_not_ours_is_refused(
    store: Store, port: int, link: OpenedLink, stories: list[str], body: dict[str, str], headers: dict[str, str],
    status: int,
) -> None:  # fmt: skip
    form, phone = urlencode({name: value.replace("{0}", stories[0]) for name, value in body.items()}), Browser(port)
    phone.look(link.token)
    try:
        found = phone.send("POST", link.token, form, headers)[0]
    except (BrokenPipeError, ConnectionResetError):
        found = 413  # the server has hung up before it had read everything
    assert found == status and guest_votes.tally(store, LOCAL, link.id).total == 0


def test_a_browser_without_cookies_cannot_vote_again_and_again(
    store: Store, port: int, link: OpenedLink, stories: list[str]
) -> None:
    for _ in range(2):
        status, page, _headers = Browser(port).send("POST", link.token, urlencode({"story": stories[0]}))
        assert status == 409 and "keeps no cookies" in page and 'href=""' in page
    assert guest_votes.tally(store, LOCAL, link.id).total == 0


def test_a_form_behind_a_proxy_that_changes_the_host_counts(
    store: Store, port: int, link: OpenedLink, stories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABULA_GUEST_URL", "https://vote.example.com")
    phone = Browser(port)
    phone.look(link.token)
    assert phone.vote(link.token, stories[0], Origin="https://vote.example.com") == 303
    assert phone.vote(link.token, stories[0], Origin="https://vote.example.com.evil.example") == 403


def test_while_the_database_is_away_a_guest_is_asked_to_try_again(
    store: Store, port: int, link: OpenedLink, home: Path
) -> None:
    Browser(port).look(link.token)
    (home / "fabula.db").rename(home / "elsewhere.db")
    status, page, _ = Browser(port).send("GET", link.token)
    assert status == 503 and "can&#x27;t be counted at the moment" in page and str(home) not in page


@pytest.mark.parametrize("path", ["/", "/story", "/settings", "/api/health", "/_stcore/health", "/guest", "/guest/a/b"])
def test_the_port_of_guests_serves_nothing_else(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404 and answer.headers["x-frame-options"] == "SAMEORIGIN"
    connection.close()


def test_a_port_that_is_taken_stops_nothing(port: int, caplog: pytest.LogCaptureFixture) -> None:
    second = GuestServer(port)
    second.start()
    second.stop()
    assert f"cannot be served on port {port}" in caplog.text


@pytest.mark.parametrize(
    ("environ", "page_url", "origin"),
    [
        ({}, "https://fabula.example.com/story?stage=1", "https://fabula.example.com"),
        ({}, "http://192.168.1.20:8501/story", "http://192.168.1.20:8501"),
        ({}, "http://localhost:8501/story", None),
        ({}, "http://127.0.0.1:8501/story", None),
        ({}, "http://[::1]:8501/story", None),
        ({}, "", None),
        ({"FABULA_GUEST_URL": "https://vote.example.com/"}, "http://localhost:8501/", "https://vote.example.com"),
        (
            {"FABULA_GUEST_URL": "https://vote.example.com", "FABULA_GUEST_PORT": "8600"},
            "http://localhost:8501/",
            "https://vote.example.com",
        ),
    ],
)
def test_where_a_code_leads(environ: dict[str, str], page_url: str, origin: str | None) -> None:
    assert guest_address.origin(Settings.from_env(environ), page_url) == origin


def test_the_port_of_guests_is_at_this_machines_address_in_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_env({"FABULA_GUEST_PORT": "8600"})
    monkeypatch.setattr(guest_address, "_own_address", lambda: "192.168.1.20")
    assert guest_address.origin(settings, "http://localhost:8501/") == "http://192.168.1.20:8600"
    monkeypatch.setattr(guest_address, "_own_address", lambda: None)
    assert guest_address.origin(settings, "http://localhost:8501/") is None


def test_two_hundred_phones_at_once(
    store: Store, port: int, link: OpenedLink, stories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of their votes are counted at a time: more would compete for the database, and some would fail."""
    numbers, vote, places = itertools.count(), guest_votes.vote, threading.Semaphore(2)
    refused: list[str] = []

    def counted(store: Store, token: str, guest: str, story_id: str | None) -> None:
        if not places.acquire(blocking=False):
            refused.append(guest)
            return
        try:
            vote(store, token, guest, story_id)
        finally:
            places.release()

    monkeypatch.setattr(guest_votes, "vote", counted)

    def guest() -> None:
        phone = Browser(port)
        phone.look(link.token)
        assert phone.vote(link.token, stories[next(numbers) % 4 == 0]) == 303
        assert "Thank you" in phone.look(link.token)

    at_once(200, guest)
    assert guest_votes.tally(store, LOCAL, link.id) == VoteCounts((150, 50), 0) and refused == []
