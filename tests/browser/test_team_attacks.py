"""What strangers, thieves and a lying provider can send to a team's server, over real HTTP and WebSockets.

Most of it needs no browser: an attacker chooses their own headers.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from core.actor import Actor
from core.db.store import Store
from core.people import invitations, people
from core.settings import Settings
from pages.ui import web_security
from tests.support import bare_tab, oidc_server, studio_process, team
from tests.support.oidc_server import COOKIE_SECRET, USER_COOKIE, OidcServer, cookie
from tests.support.studio_process import RunningStudio

_STRANGER = "This studio is for the members of a team."
_DAY_S = 86_400


@pytest.fixture(scope="module")
def oidc() -> Iterator[OidcServer]:
    """A provider that says what a test tells it."""
    with OidcServer() as running:
        yield running


@pytest.fixture(scope="module")
def team_studio(oidc: OidcServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningStudio, Settings]]:
    """A studio in team mode."""
    home: Path = tmp_path_factory.mktemp("attacked") / "home"
    environ = team.studio_variables(home, oidc_server.SECRETS.format(url=oidc.url))
    with studio_process.running(home, **environ, STREAMLIT_SERVER_MAX_UPLOAD_SIZE="1") as running:
        yield running, Settings.from_env({**team.TEAM_VARIABLES, "FABULA_HOME": str(home)})


@pytest.fixture
def url(team_studio: tuple[RunningStudio, Settings]) -> str:
    """The studio's address, as its cookies and `allowedHosts` have it."""
    return team_studio[0].url.replace("127.0.0.1", "localhost")


@pytest.fixture
def store(team_studio: tuple[RunningStudio, Settings]) -> Iterator[Store]:
    """The studio's ledger."""
    ledger = Store(team_studio[1].database_url)
    yield ledger
    ledger.close()


@pytest.fixture
def admin(store: Store, team_studio: tuple[RunningStudio, Settings]) -> Actor:
    """The first admin."""
    return team.arrive(store, team_studio[1]).actor(store)


@pytest.fixture
def cookies(oidc: OidcServer, url: str) -> dict[str, str]:
    """Of a viewer who has signed in."""
    oidc.says("vera@corp.example", name="Vera")
    return oidc_server.sign_in(url)


# --- cookies ----------------------------------------------------------------------------------------------------------


def test_who_has_signed_in_sees_pages(url: str, cookies: dict[str, str]) -> None:
    """The other tests would also pass on a server that refuses everyone."""
    seen = bare_tab.visited(url, cookies)
    assert "Vera" in seen and _STRANGER not in seen
    assert _STRANGER not in bare_tab.visited(url, cookie(url))  # a cookie made by `cookie` is as good as Streamlit's


@pytest.mark.parametrize(
    "made",
    [
        lambda url: cookie(url, age_s=40 * _DAY_S),
        lambda url: cookie(url, secret="f" * 32),
        lambda url: cookie("https://evil.example"),
        lambda url: {USER_COOKIE: cookie(url)[USER_COOKIE][:-2] + "xx"},
        lambda url: {USER_COOKIE: "chunks-2", f"{USER_COOKIE}_1": "x", f"{USER_COOKIE}_2": "y"},
        lambda url: {"_streamlit_user_tokens": cookie(url)[USER_COOKIE]},
        lambda url: {USER_COOKIE: json.dumps({**team.claims(), "is_logged_in": True})},
    ],
    ids=["expired", "other secret", "other origin", "cut", "chunks", "other name", "unsigned"],
)
def test_an_expired_or_forged_cookie_is_worthless(url: str, made: Callable[[str], dict[str, str]]) -> None:
    assert _STRANGER in bare_tab.visited(url, made(url))


def test_a_replayed_cookie_is_worthless_after_signing_out(
    url: str, cookies: dict[str, str], store: Store, admin: Actor
) -> None:
    assert _STRANGER not in bare_tab.visited(url, cookies)
    vera = next(one for one in people.everyone(store, admin) if one.email == "vera@corp.example")
    people.sign_out_everywhere(store, admin, vera.id)
    for page in ("", "settings", "dataset"):
        assert "You have been signed out" in bare_tab.visited(url, cookies, page)


# --- what the provider says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "signed_by"),
    [
        ({"iss": "https://evil.example"}, "provider"),
        ({"iss": None}, "provider"),
        ({"aud": "another application"}, "provider"),
        ({"aud": "another application", "azp": "fabula"}, "provider"),
        ({"aud": ["another application", "a third"]}, "provider"),
        ({"aud": None}, "provider"),
        ({"exp": 1_600_000_000}, "provider"),
        ({"exp": None}, "provider"),
        ({"iat": 9_999_999_999, "nbf": 9_999_999_999}, "provider"),
        ({"nonce": "of another sign-in"}, "provider"),
        ({"nonce": None}, "provider"),
        ({"sub": None}, "provider"),
        ({"email_verified": False}, "provider"),
        ({"email_verified": None}, "provider"),
        ({"email": "ann@example.com", "email_verified": "true"}, "provider"),
        ({}, "stranger"),
        ({}, "nobody"),
        ({}, "client"),
    ],
)
def test_a_token_that_is_not_for_us_or_not_of_the_provider_lets_nobody_in(
    oidc: OidcServer, url: str, changes: dict[str, Any], signed_by: str
) -> None:
    oidc.says("mallory@corp.example", **changes)
    oidc.signed_by = signed_by
    seen = bare_tab.visited(url, oidc_server.sign_in(url))
    assert "sign_in_company" in seen and "sign_in_menu" not in seen


@pytest.mark.parametrize("seconds", [-100, 100])
def test_clocks_may_differ_by_two_minutes(oidc: OidcServer, url: str, seconds: int) -> None:
    now = int(time.time()) + seconds
    oidc.says("vera@corp.example", iat=now, nbf=now, exp=now + 60)
    assert "sign_in_menu" in bare_tab.visited(url, oidc_server.sign_in(url))


def test_a_callback_without_a_sign_in_of_this_browser_is_ignored(url: str) -> None:
    """A stolen code, or one that an attacker wants a victim to use."""
    answer = httpx2.get(f"{url}/oauth2callback?code=code-0&state=stolen", follow_redirects=False, timeout=60)
    assert answer.status_code == 302 and USER_COOKIE not in answer.cookies


# --- headers ----------------------------------------------------------------------------------------------------------

_INJECTED = {
    "X-Forwarded-User": "ann@example.com",
    "X-Forwarded-Email": "ann@example.com",
    "X-Auth-Request-Email": "ann@example.com",
    "Remote-User": "ann@example.com",
    "X-Role": "admin",
    "X-Streamlit-User": "ann@example.com",
}


def test_headers_of_the_client_sign_nobody_in_and_change_no_role(
    url: str, cookies: dict[str, str], store: Store, admin: Actor
) -> None:
    assert _STRANGER in bare_tab.visited(url, headers=_INJECTED)
    invitations.invite(store, admin, "secret-guest@example.org", "viewer")
    seen = bare_tab.visited(url, cookies, "settings", headers=_INJECTED)
    assert "sign_in_menu" in seen and "secret-guest@example.org" not in seen


def test_a_page_of_admins_shows_a_viewer_nothing(url: str, cookies: dict[str, str], store: Store, admin: Actor) -> None:
    invitations.invite(store, admin, "secret-guest@example.org", "viewer")
    assert "secret-guest@example.org" not in bare_tab.visited(url, cookies, "settings")


@pytest.mark.parametrize(
    "origin",
    [None, "https://evil.example", "http://localhost:1", "http://127.0.0.1", "null", "http://localhost.evil.example"],
)
def test_a_websocket_of_another_page_is_refused(url: str, cookies: dict[str, str], origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as caught, bare_tab.joined(url, cookies, origin):
        pass
    assert caught.value.response.status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost.evil.example", ""])
def test_a_websocket_under_another_host_name_is_refused(url: str, cookies: dict[str, str], host: str) -> None:
    """DNS rebinding: a page of another name that leads to this server."""
    place = urlsplit(url)
    with closing(socket.create_connection((place.hostname or "", place.port or 80), timeout=60)) as raw:
        lines = [
            "GET /_stcore/stream HTTP/1.1", f"Host: {host}", f"Origin: http://{host}", "Upgrade: websocket",
            "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", "",
        ]  # fmt: skip
        raw.sendall("\r\n".join(lines).encode())
        assert raw.recv(100).split()[1] in (b"403", b"400")


# --- answers, uploads, paths ------------------------------------------------------------------------------------------

_PATHS = ["/", "/api/health", "/_stcore/health", "/_stcore/host-config", "/no/such/page", "/static/x.js", "/media/x",
          "/_stcore/upload_file/a/b", "/oauth2callback", "/_stcore/metrics"]  # fmt: skip


@pytest.mark.parametrize("path", _PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_every_answer_has_the_security_headers(url: str, path: str, method: str) -> None:
    answer = httpx2.request(method, url + path, timeout=60)
    assert {name: answer.headers.get(name) for name in web_security.HEADERS} == dict(web_security.HEADERS)


def test_streamlits_metrics_are_not_for_strangers(url: str) -> None:
    assert httpx2.get(f"{url}/_stcore/metrics", timeout=60).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/app.py",
        "/static/../../app.py",
        "/static/..%2f..%2fsecrets.toml",
        "/static/%5c..%5c..%5capp.py",
        "/component/x/../../app.py",
        "/component/..%2f..%2fapp.py",
        "/media/../secrets.toml",
        "/media/%2e%2e%2fsecrets.toml",
        "//evil.example/share",
        "/\\\\evil.example\\share",
        "/app/static/../app.py",
        "/.streamlit/secrets.toml",
        "/.env",
        "/app.py",
        "/fabula.db",
        "/static/\0app.py",
    ],
)
def test_no_path_leads_to_a_file_of_the_server(url: str, path: str) -> None:
    place = urlsplit(url)
    with closing(socket.create_connection((place.hostname or "", place.port or 80), timeout=60)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while block := raw.recv(65_536):
            answer += block
    assert answer.startswith(b"HTTP/1.1 ")
    for content in (b"root:", b"check_start()", b"cookie_secret", COOKIE_SECRET.encode(), b"SQLite format"):
        assert content not in answer
    assert b"location: //" not in answer.lower()  # nor to another server


def test_an_upload_that_is_too_large_is_refused(url: str, cookies: dict[str, str]) -> None:
    with httpx2.Client(timeout=60) as browser, bare_tab.joined(url, cookies) as tab:
        session = bare_tab.drawn(tab).partition('session_id: "')[2].partition('"')[0]
        browser.get(f"{url}/_stcore/health")
        token = browser.cookies["_streamlit_xsrf"]
        place = f"{url}/_stcore/upload_file/{session}/file"
        for size, status in ((100, 204), (3 << 20, 413)):
            files = {"file": ("../../x", b"x" * size)}
            assert browser.put(place, files=files, headers={"X-Xsrftoken": token}).status_code == status
        assert browser.put(place, files={"file": ("x", b"x")}).status_code == 403  # from another page
    stranger = f"{url}/_stcore/upload_file/no-session/file"
    assert httpx2.put(stranger, files={"file": ("x", b"x")}, timeout=60).status_code in (400, 403)


def test_the_address_that_counts_is_the_one_that_a_trusted_proxy_names(url: str) -> None:
    with httpx2.Client(timeout=60) as proxy:  # on the same machine, which is trusted without FORWARDED_ALLOW_IPS
        statuses = [_login(proxy, url, "198.51.100.1") for _ in range(70)]
        assert 429 in statuses and _login(proxy, url, "198.51.100.2") == 302
    with oidc_server.browser() as stranger:  # has another address, and is not believed
        assert 429 in [_login(stranger, url, f"198.51.100.{number}") for number in range(3, 73)]


def _login(client: httpx2.Client, url: str, visitor: str) -> int:
    return client.get(f"{url}/auth/login", headers={"X-Forwarded-For": visitor}).status_code


def test_an_address_that_asks_too_often_waits(url: str) -> None:
    with oidc_server.browser() as one, oidc_server.browser() as another:
        answers = [one.get(f"{url}/auth/login") for _ in range(70)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused and 1 <= int(refused[0].headers["retry-after"]) <= 60
        assert refused[0].headers["x-content-type-options"] == "nosniff"
        assert one.get(f"{url}/_stcore/health").status_code == 200
        assert another.get(f"{url}/auth/login").status_code == 302
