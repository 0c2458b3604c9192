"""Fine-tuning through the real SDK: exactly one POST per job, and correct parsing of all responses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import BadFile, BadRequest, NotFound, ProviderError, Refused, Unavailable
from core.providers import Client, JobRequest, RetryPolicy
from tests.support.fault_server import KEY, Answer, FaultServer, drop, error, html, job
from tests.support.waiting import at_once

QUICK = RetryPolicy(total_s=5, tries=4, base_s=0.001, cap_s=0.01)
REQUEST = JobRequest("gemma-3-270m", "file-1", suffix="ultraman", seed=7, n_epochs=2, learning_rate_multiplier=0.2)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def client(server: FaultServer) -> Client:
    return Client(server.provider(), retry_policy=QUICK)


def test_a_job_is_one_post_that_carries_its_intent(server: FaultServer, client: Client) -> None:
    made = client.create_job(REQUEST, "intent-1")
    assert made.intent == "intent-1" and made.status == "queued"
    assert server.requests[0].body == {
        "model": "gemma-3-270m",
        "training_file": "file-1",
        "suffix": "ultraman",
        "seed": 7,
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.2}},
        },
        "metadata": {"fabula_intent": "intent-1"},
    }


def test_a_preference_job_names_its_method_and_beta(server: FaultServer, client: Client) -> None:
    made = client.create_job(replace(REQUEST, method="dpo", beta=0.2), "intent-1")
    body = server.requests[0].body
    assert body is not None and body["method"] == {
        "type": "dpo",
        "dpo": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.2, "beta": 0.2}},
    }
    assert made.status == "queued"


@pytest.mark.parametrize(
    "fault", [error(429, "slow down"), error(500, "x"), error(502, "x"), error(409, "x"), html(502), html(), drop()]
)
def test_a_job_is_never_sent_twice(server: FaultServer, client: Client, fault: Answer) -> None:
    server.enqueue(fault)
    with pytest.raises(ProviderError):
        client.create_job(REQUEST, "intent-1")
    assert [r.method for r in server.requests] == ["POST"]


def test_a_job_is_found_again_by_its_intent(server: FaultServer, client: Client) -> None:
    for n in range(3):
        client.create_job(REQUEST, f"intent-{n}")
    found = client.find_job("intent-1")
    assert found is not None and found.id == "ftjob-2"
    assert client.find_job("never-sent") is None


@pytest.mark.parametrize(
    "fault", [error(403, "Your organization is not allowed to use fine-tuning"), error(401, "no training permission")]
)
def test_an_account_that_may_not_train_is_told_what_else_to_do(
    server: FaultServer, client: Client, fault: Answer
) -> None:
    server.enqueue(fault)
    with pytest.raises(Refused) as caught:
        client.create_job(REQUEST, "i")
    assert "may not create fine-tuning jobs" in caught.value.what
    assert "engine" in caught.value.next_step


def test_a_job_is_told_whole_with_statuses_beyond_the_sdks_type(server: FaultServer, client: Client) -> None:
    server.jobs = [
        job(
            "ftjob-9",
            status="paused",
            fine_tuned_model="ft:g:f:u:A",
            trained_tokens=99,
            estimated_finish=1_700_000_100,
            result_files=["file-r"],
            error={"code": "x", "message": "bad line 3", "param": "training_file"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}}},
            metadata={"fabula_intent": "i"},
        )
    ]
    parsed_job = client.job("ftjob-9")
    assert (parsed_job.status, parsed_job.fine_tuned_model, parsed_job.trained_tokens) == ("paused", "ft:g:f:u:A", 99)
    assert (parsed_job.error, parsed_job.result_files, parsed_job.intent) == ("bad line 3", ("file-r",), "i")
    assert parsed_job.estimated_finish == datetime.fromtimestamp(1_700_000_100, UTC)
    assert parsed_job.finished_at is None
    assert dict(parsed_job.hyperparameters) == {"n_epochs": 3, "batch_size": "auto"}


def test_looking_at_a_job_waits_out_faults(server: FaultServer, client: Client) -> None:
    server.jobs = [job("ftjob-1", status="running")]
    server.enqueue(error(502, "x"), html(503), drop())
    assert client.job("ftjob-1").status == "running"


def test_a_job_that_is_gone_is_not_found(server: FaultServer, client: Client) -> None:
    server.enqueue(error(404, "No such fine-tuning job"))
    with pytest.raises(NotFound) as caught:
        client.job("ftjob-1")
    assert isinstance(caught.value, BadRequest)


@pytest.mark.parametrize(("verb", "status"), [("cancel", "cancelled"), ("pause", "paused"), ("resume", "running")])
def test_a_job_can_be_cancelled_paused_and_resumed_each_with_one_post(
    server: FaultServer, client: Client, verb: str, status: str
) -> None:
    server.jobs = [job("ftjob-1")]
    assert getattr(client, verb)("ftjob-1").status == status
    assert server.requests[-1].path == f"/v1/fine_tuning/jobs/ftjob-1/{verb}"
    server.enqueue(error(502, "x"))
    with pytest.raises(Unavailable):
        getattr(client, verb)("ftjob-1")
    assert len(server.requests) == 2


def event(n: int, **given: object) -> dict[str, object]:
    return {
        "id": f"ev-{n}",
        "object": "fine_tuning.job.event",
        "created_at": 1_700_000_000 + n,
        "level": "info",
        "message": f"Step {n}",
        "type": "message",
        **given,
    }


@pytest.mark.parametrize(
    ("after", "expected"), [(None, ["ev-1", "ev-2", "ev-3"]), ("ev-1", ["ev-2", "ev-3"]), ("ev-3", [])]
)
def test_events_are_the_newer_ones_oldest_first(
    server: FaultServer, client: Client, after: str | None, expected: list[str]
) -> None:
    server.events["ftjob-1"] = [event(3, data={"step": 3}, type="metrics"), event(2), event(1)]  # OpenAI: newest first
    found = client.events("ftjob-1", after)
    assert [e.id for e in found] == expected
    if found:
        assert (found[-1].type, dict(found[-1].data)) == ("metrics", {"step": 3})
        assert found[0].at.tzinfo is UTC


_NOT_MEASURED = {
    "full_valid_loss": -1.0,
    "valid_mean_token_accuracy": -1,
    "train_accuracy": "N/A",
    "valid_loss": "None",
}


def test_checkpoints_come_by_step_with_their_metrics(server: FaultServer, client: Client) -> None:
    def checkpoint(step: int) -> dict[str, object]:
        return {
            "id": f"c{step}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": 1,
            "fine_tuned_model_checkpoint": f"ft:x:ckpt-step-{step}",
            "fine_tuning_job_id": "ftjob-1",
            "metrics": {"train_loss": 1.5, "step": step, "valid_loss": None, **_NOT_MEASURED},
            "step_number": step,
        }

    server.jobs = [job("ftjob-1", checkpoints=[checkpoint(20), checkpoint(10)])]
    found = client.checkpoints("ftjob-1")
    assert [(c.step, c.model) for c in found] == [(10, "ft:x:ckpt-step-10"), (20, "ft:x:ckpt-step-20")]
    assert dict(found[0].metrics) == {"train_loss": 1.5, "step": 10.0}


def test_a_file_is_uploaded_once_and_tells_how_far_it_is(server: FaultServer, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "训练.jsonl"
    path.write_bytes(b"x" * 300_000)
    seen: list[tuple[int, int]] = []
    assert client.upload(path, on_progress=lambda sent, size: seen.append((sent, size))) == "file-1"
    assert seen[-1] == (300_000, 300_000) and len(seen) > 1
    assert b"x" * 300_000 in server.files["file-1"] and b"fine-tune" in server.files["file-1"]
    server.enqueue(error(502, "x"))
    with pytest.raises(Unavailable):
        client.upload(path)
    assert len(server.requests) == 2


def test_a_file_that_is_not_here_is_a_bad_file(server: FaultServer, client: Client, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"gone\.jsonl cannot be read"):
        client.upload(tmp_path / "gone.jsonl")
    assert server.requests == []


def test_the_content_of_a_file_is_text_whatever_its_bytes(server: FaultServer, client: Client) -> None:
    assert "content of a file" in client.file_text("file-1")
    server.enqueue(Answer(body=b"\xef\xbb\xbfstep\n1,\xff", content_type="application/octet-stream"))
    assert client.file_text("file-1") == "step\n1,�"


def test_many_threads_share_one_client(server: FaultServer, client: Client) -> None:
    server.jobs = [job("ftjob-1")]
    assert at_once(8, lambda: client.job("ftjob-1").id) == ["ftjob-1"] * 8


def test_a_key_that_a_provider_repeats_in_a_jobs_error_or_event_is_left_out(
    server: FaultServer, client: Client
) -> None:
    server.jobs = [job("ftjob-1", status="failed", error={"code": "x", "message": f"bad key {KEY}", "param": None})]
    event = {"id": "e1", "object": "fine_tuning.job.event", "created_at": 1, "level": "info", "type": "message"}
    server.events["ftjob-1"] = [{**event, "message": f"sent with {KEY}"}]
    assert client.job("ftjob-1").error == "bad key [key]"
    assert [one.message for one in client.events("ftjob-1")] == ["sent with [key]"]
