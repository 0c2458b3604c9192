"""Web pages that may call the engine: the setting, the browser's question before a request, and `--no-auth`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core import setting_fields
from core.engine.cors_origins import SETTING, read
from core.engine.store import EngineStore, StoredResponse
from core.errors import BadSettings
from tests.support.engine_process import running

_PAGE, _OTHER = "http://localhost:5173", "https://evil.example"
_QUESTION = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", set()),
        (" , ", set()),
        ("*", {"*"}),
        ("HTTP://LocalHost:5173/, https://app.example.com", {"http://localhost:5173", "https://app.example.com"}),
        ("https://app.example.com:443,http://[::1]:80", {"https://app.example.com", "http://[::1]"}),
    ],
)
def test_origins_are_read_as_browsers_send_them(value: str, origins: set[str]) -> None:
    assert read({SETTING: value}) == origins
    assert set(filter(None, (setting_fields.checked({SETTING: value}).engine_cors_origins or "").split(","))) == origins


@pytest.mark.parametrize(
    "value",
    ["localhost:5173", "example.com", "http://", "ftp://a.example", "http://a.example/page", "http://a:x", "null"],
)
def test_what_is_no_origin_is_named(value: str) -> None:
    with pytest.raises(ValueError, match=SETTING):
        read({SETTING: f"{_PAGE},{value}"})
    with pytest.raises(BadSettings, match=SETTING):
        setting_fields.checked({SETTING: value})


def test_a_named_page_may_call_the_engine_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, f"{_PAGE},https://app.example.com")
    with running(tmp_path / "home") as engine, engine.http() as http:
        path = "/v1/chat/completions"
        asked = http.options(path, headers={**_QUESTION, "origin": _PAGE, "authorization": ""})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, _PAGE)
        assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
        foreign = http.options(path, headers={**_QUESTION, "origin": _OTHER, "authorization": ""})
        assert foreign.status_code == 400
        assert "access-control-allow-origin" not in foreign.headers
        answer = http.get("/v1/models", headers={"origin": _PAGE})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, _PAGE)
        assert "fabula-model" in answer.headers["access-control-expose-headers"]
        refused = http.get("/v1/models", headers={"origin": _PAGE, "authorization": "Bearer no"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, _PAGE)
        unreadable = StoredResponse("resp_1", int(time.time()), None, "[]", "{")
        EngineStore(tmp_path / "home" / "engine.db").add(unreadable)
        failed = http.get("/v1/responses/resp_1", headers={"origin": _PAGE})
        assert (failed.status_code, failed.headers["access-control-allow-origin"]) == (500, _PAGE)
        assert failed.json()["error"]["code"] == "server_error"
        assert failed.headers["x-request-id"]


def test_without_a_token_a_named_page_may_call_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, _PAGE)
    with running(tmp_path / "home", None, "--no-auth", "--no-warm-up") as engine, engine.http() as http:
        for origin, site, status in ((_PAGE, "same-site", 200), (_OTHER, "cross-site", 401), (None, "cross-site", 401)):
            headers = {"sec-fetch-site": site, **({"origin": origin} if origin else {})}
            assert http.get("/v1/models", headers=headers).status_code == status, origin
        assert http.get("/v1/models", headers={"origin": _PAGE, "host": "evil.example"}).status_code == 401


def test_without_the_setting_no_page_is_answered(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine, engine.http() as http:
        assert http.options("/v1/models", headers={**_QUESTION, "origin": _PAGE}).status_code == 405
        assert "access-control-allow-origin" not in http.get("/v1/models", headers={"origin": _PAGE}).headers
