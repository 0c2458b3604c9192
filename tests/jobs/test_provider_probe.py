"""The test of a provider: what is found, what failed and why, and that every paid call is in the ledger first."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import Spend
from core.jobs import provider_probe
from core.jobs.provider_probe import Check, ProbeReport
from core.pricing import budget, custom_prices
from core.pricing.price_book import PriceBook
from core.providers import Client, Provider, Registry, RetryPolicy, saved
from core.providers.presets import find
from core.providers.saved import ProviderForm
from core.secret_key import SecretKey
from core.settings import Settings
from tests.support import fault_server
from tests.support.fault_server import KEY, Answer, FaultServer, error, html, raw
from tests.support.tls_server import certificate_for, serving

_ONE_TRY = RetryPolicy(tries=1, total_s=30)
_BOOK = PriceBook.load()


@pytest.fixture
def endpoint() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def _provider(url: str, **more: object) -> Provider:
    return Provider("fault", "compatible", "The test server", url, KEY, saved=True, **more)  # type: ignore[arg-type]


def _probe(store: Store, provider: Provider, model: str = "", book: PriceBook = _BOOK) -> ProbeReport:
    client = Client(provider, retry_policy=_ONE_TRY, timeout=30)
    return provider_probe.probe(store, LOCAL, client, book, model)


def _answers(report: ProbeReport) -> dict[Check, str]:
    return {finding.check: finding.answer for finding in report.findings}


def _note(report: ProbeReport, check: Check) -> str:
    return next(finding.note for finding in report.findings if finding.check == check)


def test_everything_that_a_server_can_do_is_found(store: Store, endpoint: FaultServer) -> None:
    report = _probe(store, _provider(endpoint.url))
    assert report.usable and report.problem == "" and (report.models, report.model) == (1, "writer")
    assert _answers(report) == {
        "models": "yes", "chat": "yes", "streaming": "yes", "choices": "yes", "usage": "yes", "completions": "yes",
        "batches": "no", "training": "yes", "speech": "yes",
    }  # fmt: skip
    limits = [r.body["max_tokens"] for r in endpoint.requests if r.path.endswith("/completions")]
    assert limits == [16] * 4 and [r.body for r in endpoint.requests if r.path.endswith("/speech")] == [{}]


@pytest.mark.parametrize(
    ("prepare", "check", "answer", "told"),
    [
        (lambda s: setattr(s, "most_choices", 1), "choices", "no", "separate request"),
        (lambda s: setattr(s, "refuses_n", True), "choices", "no", "separate request"),
        (lambda s: setattr(s, "default", Answer(usage=False)), "usage", "no", "no token counts"),
        (lambda s: setattr(s, "judge", _no_legacy), "completions", "no", "No such route"),
        (lambda s: setattr(s, "judge", _no_stream), "streaming", "no", "streams are off"),
        (lambda s: setattr(s, "judge", _no_chat), "chat", "no", "base model"),
        (lambda s: setattr(s, "default", error(429, "slow down")), "chat", "unknown", "slow down"),
        (lambda s: setattr(s, "default", error(500, "out of memory")), "chat", "unknown", "out of memory"),
        (lambda s: setattr(s, "default", fault_server.quota()), "chat", "no", "no credit left"),
        (lambda s: setattr(s, "default", error(403, "not in your country")), "chat", "no", "not in your country"),
    ],
)
def test_what_is_missing_or_fails_is_told_in_words(
    store: Store, endpoint: FaultServer, prepare: object, check: Check, answer: str, told: str
) -> None:
    prepare(endpoint)  # type: ignore[operator]
    report = _probe(store, _provider(endpoint.url))
    assert _answers(report)[check] == answer and told in _note(report, check)


def _no_legacy(body: object) -> Answer:
    return Answer() if isinstance(body, dict) and "messages" in body else error(404, "No such route")


def _no_stream(body: object) -> Answer:
    return error(400, "streams are off") if isinstance(body, dict) and body.get("stream") else Answer()


def _no_chat(body: object) -> Answer:
    return (
        error(400, "a base model has no chat template") if isinstance(body, dict) and "messages" in body else Answer()
    )


def test_a_base_model_without_chat_is_usable(store: Store, endpoint: FaultServer) -> None:
    endpoint.judge = _no_chat
    report = _probe(store, _provider(endpoint.url))
    assert report.usable and _answers(report)["completions"] == "yes" and _answers(report)["usage"] == "yes"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (error(401, f"Incorrect API key provided: {KEY}"), "refused the key (401)"),
        (error(403, "Your plan has no API"), "Your plan has no API"),
        (html(), "answered with a web page, not as an API"),
        (html(404), "is not the address of an API: it answers with a web page (Sign in)"),
        (error(404, "Not Found"), "name the models to offer"),
        (html(status=403), "Sign in"),
        (raw(b'{"object": "list", "data": [{"object": "model"}, {"id": ""}]}'), "models without ids"),
        (error(500, "database is locked"), "database is locked"),
    ],
)
def test_an_endpoint_that_cannot_work_gets_no_paid_request(
    store: Store, endpoint: FaultServer, answer: Answer, told: str
) -> None:
    endpoint.enqueue(*[answer] * 9)
    report = _probe(store, _provider(endpoint.url))
    assert not report.usable and told in report.problem and KEY not in report.problem
    assert set(_answers(report).values()) <= {"no", "unknown", "untested"} and endpoint.prompts() == []
    assert "restart" not in report.problem


def test_a_server_without_a_list_is_tested_with_a_named_model(store: Store, endpoint: FaultServer) -> None:
    endpoint.enqueue(error(404, "unknown path"))
    assert not _probe(store, _provider(endpoint.url)).usable
    report = _probe(store, _provider(endpoint.url, models=("writer", "other")))
    assert report.usable and report.models == 2 and "that you listed" in _note(report, "models")


def test_an_address_without_its_version_is_told(store: Store, endpoint: FaultServer) -> None:
    endpoint.enqueue(*[error(404, "Not Found")] * 9)
    report = _probe(store, _provider(endpoint.url.removesuffix("/v1")))
    assert f"Set the address of The test server to {endpoint.url} under Settings" in report.problem


def test_50_000_models_are_bounded(store: Store, endpoint: FaultServer) -> None:
    endpoint.models = [{"id": f"m{n:05}", "object": "model", "created": n + 1} for n in range(50_000)]
    report = _probe(store, _provider(endpoint.url))
    assert report.models == 500 and "500 are offered" in _note(report, "models") and report.model == "m49999"


def test_an_empty_list_says_what_to_do(store: Store, endpoint: FaultServer) -> None:
    endpoint.models = []
    report = _probe(store, _provider(endpoint.url))
    assert not report.usable and "Load one there" in report.problem


class _Redirect(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target = ""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(307)
        self.send_header("location", self.target + self.path.removeprefix("/v1"))
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        """No log output."""


def test_a_redirect_to_another_host_gets_neither_key_nor_prompt(store: Store, endpoint: FaultServer) -> None:
    handler = type("Handler", (_Redirect,), {"target": endpoint.url})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        report = _probe(store, _provider(f"http://127.0.0.1:{http.server_address[1]}/v1"), model="writer")
        http.shutdown()
    host = endpoint.url.removesuffix("/v1")
    assert f"redirects requests to {host}" in report.problem and f"to {endpoint.url} under" in report.problem
    assert endpoint.requests == []


def test_a_self_signed_certificate_needs_its_ca_file(store: Store, tmp_path: Path, settings: Settings) -> None:
    pem = certificate_for(tmp_path / "server.pem", "127.0.0.1")
    certificate = "-----BEGIN CERTIFICATE-----" + pem.read_text().split("-----BEGIN CERTIFICATE-----")[1]
    with serving(pem) as place:
        url = f"https://{place}/v1"
        refused = _probe(store, _provider(url))
        assert "not trusted" in refused.problem and "choose its CA certificate file" in refused.problem
        trusted = _probe(store, _provider(url, certificates=certificate))
        assert "not trusted" not in trusted.problem  # the connection stands; this server has no API
    added = saved.add(store, LOCAL, SecretKey(settings), ProviderForm("vllm", "TLS", url, certificates=certificate))
    assert saved.list_saved(store)[0].id == added
    with pytest.raises(Exception, match="no certificates"):  # a file with the private key is refused
        saved.add(store, LOCAL, SecretKey(settings), ProviderForm("vllm", "T", url, certificates=pem.read_text()))


# --- money ------------------------------------------------------------------------------------------------------------


def _priced(store: Store) -> PriceBook:
    for what in ("input", "output"):
        custom_prices.set_price(
            store, LOCAL, provider="fault", model="writer", kind=what, amount="1000", currency="USD", unit="mtok"
        )
    return PriceBook.load(own=custom_prices.entries(store))


def test_every_paid_request_is_booked_before_it_is_sent(store: Store, endpoint: FaultServer) -> None:
    booked: list[int] = []

    def count(body: object) -> Answer:
        with store.reading() as session:
            booked.append(len(session.scalars(select(Spend)).all()))
        return Answer() if body else raw(b"ID3 some audio", "audio/mpeg")

    endpoint.judge = count
    report = _probe(store, _provider(endpoint.url), book=_priced(store))
    assert _answers(report)["speech"] == "yes"
    assert booked == [1, 2, 3, 4, 5]  # the last for speech, which answers with audio here
    with store.reading() as session:
        lines = session.scalars(select(Spend).order_by(Spend.id)).all()
    assert [(s.page, s.reference, s.provider, s.model) for s in lines] == [
        *[("settings", "provider-test", "fault", "writer")] * 4,
        ("settings", "provider-test", "fault", "speech"),
    ]
    costs = [Decimal("0.012"), Decimal("0.012"), Decimal("0.014"), Decimal("0.012"), None]  # of the audio: unknown
    assert [s.cost_usd for s in lines] == costs
    assert all(s.estimated_usd is not None and s.estimated_usd >= (s.cost_usd or 0) for s in lines)


@pytest.mark.parametrize(
    ("answer", "more", "costs"),
    [
        (error(400, "model is missing"), {}, []),
        (error(404, "no such path"), {}, []),
        (raw(b"ID3", "audio/mpeg"), {}, [None]),
        (raw(b"ID3", "audio/mpeg"), {"specific": find("vllm").capabilities}, [Decimal(0)]),
        (fault_server.drop(), {}, [None]),
    ],
)
def test_the_question_for_speech_is_booked_if_a_server_may_bill_it(
    store: Store, endpoint: FaultServer, answer: Answer, more: dict[str, object], costs: list[Decimal | None]
) -> None:
    endpoint.judge = lambda body: Answer() if body else answer
    _probe(store, _provider(endpoint.url, **more))
    with store.reading() as session:
        lines = session.scalars(select(Spend).where(Spend.model == "speech")).all()
    assert [line.cost_usd for line in lines] == costs


def test_tokens_from_the_providers_cache_cost_what_they_cost(store: Store, endpoint: FaultServer) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
    whole = {"model": "writer", "choices": [{"message": {"content": "Hello."}, "text": "Hello.",
             "finish_reason": "stop", "index": 0}], "usage": usage}  # fmt: skip
    piece = {"model": "writer", "choices": [{"delta": {"content": "Hello."}, "finish_reason": "stop", "index": 0}]}
    events = (piece, {"model": "writer", "choices": [], "usage": usage}, "[DONE]")
    lines = (event if isinstance(event, str) else json.dumps(event) for event in events)
    stream = raw("".join(f"data: {line}\n\n" for line in lines).encode(), "text/event-stream")
    endpoint.judge = lambda body: stream if body.get("stream") else raw(json.dumps(whole).encode())
    for kind, amount in (("input", "1000"), ("cached_input", "100"), ("output", "1000")):
        custom_prices.set_price(store, LOCAL, provider="fault", model="writer", kind=kind, amount=amount)
    _probe(store, _provider(endpoint.url), book=PriceBook.load(own=custom_prices.entries(store)))
    with store.reading() as session:
        costs = session.scalars(select(Spend.cost_usd).where(Spend.model == "writer")).all()
    assert costs == [Decimal("0.0048")] * 4  # 2 prompt tokens, 8 cached ones, 2 written


def test_a_refused_request_costs_nothing_and_a_lost_one_counts(store: Store, endpoint: FaultServer) -> None:
    endpoint.default = error(401, "no")
    book = _priced(store)
    _probe(store, _provider(endpoint.url), book=book)
    with store.reading() as session:
        assert session.scalars(select(Spend)).all() == []
    endpoint.default = fault_server.drop()
    _probe(store, _provider(endpoint.url), book=book)
    with store.reading() as session:
        assert [s.cost_usd for s in session.scalars(select(Spend))] == [None] * 3  # chat, completions and speech


def test_a_budget_holds_for_a_test_too(store: Store, endpoint: FaultServer) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("0.001"))
    report = _probe(store, _provider(endpoint.url), book=_priced(store))
    assert endpoint.prompts() == [] and _answers(report)["chat"] == "unknown" and "budget" in _note(report, "chat")


def test_the_cheapest_priced_model_is_asked(store: Store, endpoint: FaultServer) -> None:
    names = ["gpt-4o", "gpt-4o-mini", "unpriced"]
    endpoint.models = [{"id": name, "object": "model", "created": 9 - n} for n, name in enumerate(names)]
    provider = replace(_provider(endpoint.url), id="openai")
    assert _probe(store, provider).model == "gpt-4o-mini"
    assert _probe(store, _provider(endpoint.url)).model == "gpt-4o"  # no prices are known: the first
    assert _probe(store, provider, model="unpriced").model == "unpriced"


# --- the report -------------------------------------------------------------------------------------------------------


def test_a_report_survives_the_ledger(store: Store, endpoint: FaultServer, settings: Settings) -> None:
    added = saved.add(store, LOCAL, SecretKey(settings), ProviderForm("compatible", "S", endpoint.url, KEY))
    report = _probe(store, _provider(endpoint.url))
    view = saved.list_saved(store)[0]
    saved.save_findings(store, LOCAL, added, view.revision, report.to_dict())
    assert ProbeReport.from_dict(saved.list_saved(store)[0].found) == report
    registry = Registry.from_settings(settings, {}, lambda: store)
    assert registry.provider(added).capabilities.batches is False  # known from the test, not asked again
    assert ProbeReport.from_dict({"findings": "from another version"}) is None and ProbeReport.from_dict(None) is None


def test_a_preset_knows_what_need_not_be_asked(store: Store, endpoint: FaultServer) -> None:
    report = _probe(store, _provider(endpoint.url, specific=find("ollama").capabilities))
    assert _answers(report)["batches"] == "no" and not [r for r in endpoint.requests if "batches" in r.path]
