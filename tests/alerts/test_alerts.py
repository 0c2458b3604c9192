"""Alerts: each event is found, stored and sent once, on a real HTTP server and a real mail server."""

from __future__ import annotations

import email.policy
import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import select

from core.actor import LOCAL, Actor
from core.alerts import outbox
from core.alerts.channels import Email, NotSent, Webhook, shape_of
from core.alerts.sender import AlertSender
from core.db.store import Store, new_id
from core.db.tables import Alert, Dataset, Person, Row, Run, Spend, TrainingJob, utcnow
from core.message import msg
from core.pricing import budget, budget_requests
from core.settings import Settings
from tests.support.ledger_rows import put_dataset, put_job
from tests.support.waiting import until
from tests.support.webhook_server import WebhookServer


@pytest.fixture
def webhook() -> Iterator[WebhookServer]:
    with WebhookServer() as running:
        yield running


class _Mailbox:
    """A handler of aiosmtpd that keeps messages."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.refused = False

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refused:
            return "451 try again later"
        parsed = BytesParser(policy=email.policy.default).parsebytes(envelope.content)
        assert isinstance(parsed, EmailMessage)
        self.messages.append(parsed)
        return "250 OK"


class _LoopbackController(Controller):
    """On a port that the system chooses."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # it has been started
        super()._trigger_server()


@pytest.fixture
def mail() -> Iterator[tuple[_Mailbox, str]]:
    mailbox = _Mailbox()
    controller = _LoopbackController(mailbox, hostname="127.0.0.1", port=0)
    controller.start()
    yield mailbox, f"smtp://127.0.0.1:{controller.port}"
    controller.stop()


def sender(store: Store, *channels: Any, language: str = "en") -> AlertSender:
    """A sender whose first look has noted since when there are alerts."""
    made = AlertSender(store, channels, language)
    made.send_due()
    return made


def put_run(store: Store, state: str, **values: Any) -> str:
    dataset_id = put_dataset(store, f"heroes {new_id()[-4:]}", 2, 1)
    with store.session() as session:
        session.get_one(Dataset, dataset_id).name = "Heroes"
        finished = utcnow() if state in ("done", "failed", "stopped") else None
        given = {"started_at": utcnow(), "finished_at": finished, "created_by": "ann", **values}
        session.add(run := Run(id=new_id(), dataset_id=dataset_id, state=state, provider="p", model="m", **given))
        for row in session.scalars(select(Row).where(Row.dataset_id == dataset_id)):
            row.run_id = run.id
        return run.id


def spend(store: Store, usd: str | None, reference: str = "s", tokens: int | None = 9, **values: Any) -> None:
    """A line of the ledger; without tokens it is a reservation."""
    with store.session() as session:
        line = {"page": "story", "provider": "p", "model": "m", "reference": reference, "completion_tokens": tokens}
        session.add(Spend(actor="ann", cost_usd=None if usd is None else Decimal(usd), **line, **values))


def long_ago(store: Store, table: type[Any], row_id: str, *columns: str) -> None:
    with store.session() as session:
        found = session.get_one(table, row_id)
        for column in columns:
            setattr(found, column, utcnow() - timedelta(hours=1))
        if isinstance(found, Run):
            for row in session.scalars(select(Row).where(Row.run_id == row_id)):
                row.updated_at = utcnow() - timedelta(hours=1)


def _stalled_run(store: Store) -> None:
    long_ago(store, Run, put_run(store, "running", note=msg("The engine is starting.")), "started_at")


def _stalled_job(store: Store) -> None:
    job_id = put_job(store, status="running", events_at=utcnow() - timedelta(hours=1))
    long_ago(store, TrainingJob, job_id, "updated_at")


def _month_budget(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(10))
    spend(store, "8.00")
    spend(store, "0.75", tokens=None)


def _person_budget(store: Store) -> None:
    budget.set_budget(store, LOCAL, "person", Decimal(10), "ann")
    spend(store, "9.50")


def _each_budget(store: Store) -> None:
    budget.set_budget(store, LOCAL, "each", Decimal(10))
    budget.set_budget(store, LOCAL, "person", Decimal(100), "vic")
    with store.session() as session:
        for name in ("ann", "vic"):
            session.add(Person(id=name, email=f"{name}@example.com", name=f"{name.title()} Smith", role="editor"))
        session.add(Spend(actor="vic", page="story", provider="p", model="m", reference="s", cost_usd=Decimal(9)))
    spend(store, "9.50")


def _request(store: Store) -> None:
    _each_budget(store)
    with store.session() as session:  # nothing is nearly used up
        for line in session.scalars(select(Spend)):
            line.cost_usd = Decimal(1)
    budget_requests.ask(store, Actor("ann", "Ann Smith", "editor"), "person")


def _run_budget(store: Store) -> None:
    spend(store, "0.85", put_run(store, "running", budget_usd=Decimal(1)))


def _budget_of_every_run(store: Store) -> None:
    budget.set_budget(store, LOCAL, "run", Decimal(2))
    spend(store, "1.90", put_run(store, "running", budget_usd=Decimal(5)))


def _unknown_cost(store: Store) -> None:
    run_id = put_run(store, "done")
    spend(store, "0.40", run_id)
    spend(store, None, run_id, estimated_usd=Decimal("0.05"))


def _reserved(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(10))
    spend(store, "7.00")
    spend(store, "2.50", tokens=None)


def _declined(store: Store) -> None:
    budget.set_budget(store, LOCAL, "run", Decimal(1))
    budget_requests.decline(store, LOCAL, budget_requests.ask(store, LOCAL, "run"))


_EVENTS = {
    "run done": (
        lambda store: put_run(store, "done"),
        "Run finished: Heroes",
        "2 rows written, 0 failed. Spent: $0.00.",
    ),
    "unknown cost": (
        _unknown_cost,
        "Run finished: Heroes",
        "Spent: $0.40. The cost of some requests is unknown: at most $0.05 more.",
    ),
    "run failed": (lambda store: put_run(store, "failed", reason="No key."), "Run failed: Heroes", "No key. 2 rows"),
    "run stopped": (lambda store: put_run(store, "stopped"), "Run stopped: Heroes", "2 rows written"),
    "run stalled": (_stalled_run, "Run stalled: Heroes", "written for 30 minutes. The engine is starting."),
    "job done": (
        lambda store: put_job(store, status="succeeded", fine_tuned_model="ft:x"),
        "Training finished: ultraman",
        "The new model is ft:x.",
    ),
    "job failed": (
        lambda store: put_job(store, status="failed", error="Line 3 is empty.", next_step="Fix it."),
        "Training failed: ultraman",
        "Line 3 is empty. Fix it.",
    ),
    "job cancelled": (lambda store: put_job(store, status="cancelled"), "Training cancelled: ultraman", ""),
    "job stalled": (_stalled_job, "Training stalled: ultraman", "Nothing was reported for 30 minutes."),
    "month": (
        _month_budget,
        "This month's budget is nearly used up",
        "$10.00 is spent (80 %), and $0.75 is reserved.",
    ),
    "person": (
        _person_budget,
        "The budget of ann is nearly used up",
        "$9.50 of $10.00 is spent (95 %)",
    ),
    "each person": (
        _each_budget,
        "The budget of Ann Smith is nearly used up",
        "$9.50 of $10.00 is spent (95 %)",
    ),
    "request": (
        _request,
        "Ann Smith asks for a higher budget",
        "Their budget is $10.00 per month now. An admin can grant or decline the request on the settings page.",
    ),
    "run budget": (_run_budget, "The budget of a run is nearly used up: Heroes", "$0.85 of $1.00"),
    "every run": (_budget_of_every_run, "The budget of a run is nearly used up: Heroes", "$1.90 of $2.00"),
}


@pytest.mark.parametrize(("happen", "title", "text"), list(_EVENTS.values()), ids=list(_EVENTS))
def test_each_event_is_sent_once(store: Store, webhook: WebhookServer, happen: Any, title: str, text: str) -> None:
    one = sender(store, Webhook(webhook.url, "json"))
    happen(store)
    for _look in range(3):
        one.send_due()
    (received,) = webhook.received
    assert received["title"] == title and text in received["text"]
    sender(store, Webhook(webhook.url, "json")).send_due()  # a new process
    assert len(webhook.received) == 1


@pytest.mark.parametrize(
    "happen",
    [
        lambda store: put_run(store, "running"),
        lambda store: put_run(store, "queued"),
        lambda store: long_ago(store, Run, put_run(store, "running", mode="batch"), "started_at"),
        lambda store: put_job(store, status="running"),
        lambda store: budget.set_budget(store, LOCAL, "month", Decimal(10)) or spend(store, "7.99"),
        _reserved,
        _declined,
    ],
    ids=["running", "queued", "batch", "training", "below 80 %", "reserved", "declined request"],
)
def test_normal_progress_is_no_news(store: Store, webhook: WebhookServer, happen: Any) -> None:
    one = sender(store, Webhook(webhook.url, "json"))
    happen(store)
    one.send_due()
    assert webhook.received == []


def test_requests_and_budgets_of_others_are_alerts_of_their_own(store: Store, webhook: WebhookServer) -> None:
    one = sender(store, Webhook(webhook.url, "json"))
    budget.set_budget(store, LOCAL, "month", Decimal(20))
    _request(store)
    vic = Actor("vic", "Vic Smith", "viewer")
    budget_requests.ask(store, vic, "month")
    one.send_due()
    assert {(sent["title"], sent["text"].partition(".")[0]) for sent in webhook.received} == {
        ("Ann Smith asks for a higher budget", "Their budget is $10"),
        ("Vic Smith asks for a higher budget", "The budget for everyone is $20"),
    }
    budget.set_budget(store, LOCAL, "each", Decimal("1.1"))  # Ann has spent $1
    one.send_due()
    assert [sent["title"] for sent in webhook.received[2:]] == ["The budget of Ann Smith is nearly used up"]


def test_what_ended_before_alerts_were_set_up_is_not_sent(store: Store, webhook: WebhookServer) -> None:
    put_run(store, "done")
    one = sender(store, Webhook(webhook.url, "json"))
    one.send_due()
    assert webhook.received == []


def test_a_run_that_fails_again_is_a_new_event(store: Store, webhook: WebhookServer) -> None:
    one = sender(store, Webhook(webhook.url, "json"))
    run_id = put_run(store, "failed")
    one.send_due()
    with store.session() as session:
        session.get_one(Run, run_id).finished_at = utcnow() + timedelta(seconds=5)
    one.send_due()
    assert [received["title"] for received in webhook.received] == ["Run failed: Heroes"] * 2


def due_now(store: Store) -> None:
    with store.session() as session:
        for alert in session.scalars(select(Alert)):
            alert.not_before = utcnow()


def test_a_refused_alert_is_tried_again_and_given_up_in_the_end(store: Store) -> None:
    with WebhookServer(*[(503, "busy")] * 50) as webhook:
        one = sender(store, Webhook(webhook.url, "json"))
        put_run(store, "done")
        one.send_due()
        one.send_due()
        assert len(webhook.received) == 1  # the second attempt has to wait
        for _attempt in range(outbox.MAX_TRIES + 3):
            due_now(store)
            one.send_due()
        assert len(webhook.received) == outbox.MAX_TRIES
    with store.reading() as session:
        alert = session.scalars(select(Alert).where(Alert.channel == "webhook")).one()
    assert alert.sent_at is None and alert.error == "The webhook answered 503 Service Unavailable."


def test_one_channel_that_fails_does_not_repeat_the_other(
    store: Store, webhook: WebhookServer, mail: tuple[_Mailbox, str]
) -> None:
    mailbox, url = mail
    mailbox.refused = True
    one = sender(store, Webhook(webhook.url, "json"), Email(url, "fabula@example.com", ("a@example.com",)))
    put_run(store, "done")
    one.send_due()
    mailbox.refused = False
    due_now(store)
    one.send_due()
    assert (len(webhook.received), len(mailbox.messages)) == (1, 1)


def test_a_worker_that_was_killed_while_sending_leaves_the_alert_to_another(
    store: Store, webhook: WebhookServer
) -> None:
    one = sender(store, Webhook(webhook.url, "json"))
    put_run(store, "done")
    outbox.collect(store, ["webhook"])
    assert outbox.claim(store, ["webhook"]) is not None  # and then it is killed
    one.send_due()
    assert webhook.received == []  # it may still be sending
    due_now(store)  # two minutes later
    one.send_due()
    assert len(webhook.received) == 1


def test_two_workers_send_an_alert_once(store: Store, webhook: WebhookServer) -> None:
    senders = [sender(store, Webhook(webhook.url, "json")) for _ in range(4)]
    for _ in range(5):
        put_run(store, "done")
    threads = [threading.Thread(target=one.send_due) for one in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(webhook.received) == len({received["key"] for received in webhook.received}) == 5


def test_the_thread_sends_and_stops(store: Store, webhook: WebhookServer) -> None:
    one = AlertSender(store, [Webhook(webhook.url, "json")], poll_s=0.01)
    one.start()
    until(lambda: outbox_started(store), "the first look")
    put_run(store, "done")
    until(lambda: webhook.received, "the alert")
    one.stop()


def outbox_started(store: Store) -> bool:
    with store.reading() as session:
        return session.scalar(select(Alert.key)) is not None


def test_alerts_have_the_language_that_is_set(store: Store, webhook: WebhookServer) -> None:
    one = sender(store, Webhook(webhook.url, "json"), language="zh_CN")
    put_run(store, "done")
    one.send_due()
    assert "Heroes" in webhook.received[0]["title"] and "Run finished" not in webhook.received[0]["title"]


# --- channels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("slack", {"text": "*Run done: &lt;x&gt; &amp; y*\nAll rows."}),
        ("feishu", {"msg_type": "text", "content": {"text": "Run done: <x> & y\nAll rows."}}),
        ("json", {"key": "k", "title": "Run done: <x> & y", "text": "All rows."}),
    ],
)
def test_a_webhook_gets_the_shape_of_its_service(webhook: WebhookServer, shape: Any, expected: object) -> None:
    Webhook(webhook.url, shape).send("k", "Run done: <x> & y", "All rows.")
    assert webhook.received == [expected]


def test_teams_gets_an_adaptive_card(webhook: WebhookServer) -> None:
    Webhook(webhook.url, "teams").send("k", "Run done", "All rows.")
    (attachment,) = webhook.received[0]["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert [block["text"] for block in attachment["content"]["body"]] == ["Run done", "All rows."]


@pytest.mark.parametrize(
    ("url", "shape"),
    [
        ("https://hooks.slack.com/services/T0/B0/x", "slack"),
        ("https://prod-01.westeurope.logic.azure.com:443/workflows/x", "teams"),
        ("https://contoso.webhook.office.com/webhookb2/x", "teams"),
        ("https://open.feishu.cn/open-apis/bot/v2/hook/x", "feishu"),
        ("https://open.larksuite.com/open-apis/bot/v2/hook/x", "feishu"),
        ("https://alerts.example.com/fabula", "json"),
        ("https://nothooks.slack.com.example.com/x", "json"),
        ("https://evilfeishu.cn/x", "json"),
    ],
)
def test_the_shape_follows_from_the_host(url: str, shape: str) -> None:
    assert shape_of(url) == shape


@pytest.mark.parametrize(
    ("answer", "shape", "says"),
    [
        ((500, "no"), "json", "answered 500"),
        ((302, "http://127.0.0.1:9/elsewhere"), "json", "answered 302"),
        ((200, '{"code": 19001, "msg": "param invalid"}'), "feishu", "error 19001"),
        ((200, "<html>"), "feishu", "error no JSON"),
    ],
)
def test_a_refusal_is_an_error_without_the_address(answer: tuple[int, str], shape: Any, says: str) -> None:
    with WebhookServer(answer) as webhook, pytest.raises(NotSent) as caught:
        Webhook(webhook.url, shape).send("k", "t", "x")
    assert says in str(caught.value) and "secret-part" not in str(caught.value)


def test_a_webhook_that_cannot_be_reached_is_an_error() -> None:
    with WebhookServer() as gone:
        url = gone.url
    with pytest.raises(NotSent, match="cannot be reached: Connection refused"):
        Webhook(url, "json").send("k", "t", "x")


def test_an_e_mail_has_all_that_a_mail_server_wants(mail: tuple[_Mailbox, str]) -> None:
    mailbox, url = mail
    for _ in range(2):
        Email(url, "fabula@example.com", ("a@example.com", "b@example.com")).send(
            "k", "Run done:\r\nBcc: evil@example.com", "所有行已写好。"
        )
    first, second = mailbox.messages
    assert first["Subject"] == "Run done: Bcc: evil@example.com" and first["Bcc"] is None
    assert first["To"] == "a@example.com, b@example.com" and first["From"] == "fabula@example.com"
    assert first["Message-ID"] == second["Message-ID"] and first["Date"]
    assert first.get_content().strip() == "所有行已写好。"


def test_a_mail_server_that_refuses_or_is_away_is_an_error_without_the_password(mail: tuple[_Mailbox, str]) -> None:
    mailbox, url = mail
    mailbox.refused = True
    with pytest.raises(NotSent, match="answered 451"):
        Email(url, "fabula@example.com", ("a@example.com",)).send("k", "t", "x")
    with pytest.raises(NotSent) as caught:
        Email(url.replace("//", "//user:pass-word@"), "f@example.com", ("a@example.com",)).send("k", "t", "x")
    assert "pass-word" not in str(caught.value)
    with pytest.raises(NotSent, match="cannot be used"):
        Email("smtp://127.0.0.1:9", "f@example.com", ("a@example.com",)).send("k", "t", "x")


def test_the_worker_sends_alerts_on_postgres_too(on_postgres: Settings, webhook: WebhookServer) -> None:
    store = Store.open(on_postgres)
    one = sender(store, Webhook(webhook.url, "json"))
    put_run(store, "done")
    one.send_due()
    one.send_due()
    assert [received["title"] for received in webhook.received] == ["Run finished: Heroes"]
    store.close()
