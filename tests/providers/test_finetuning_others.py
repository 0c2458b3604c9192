"""Azure and Together in their documented formats: one POST per job, and jobs are found without metadata."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from core.errors import BadRequest, BadTrainingFile, NotFound, ProviderError, Unavailable
from core.finetuning.results import parse
from core.providers import JobRequest, Provider, Registry, RetryPolicy
from core.providers.azure import Azure
from core.providers.client import Client
from core.providers.together import Together
from core.settings import Settings

QUICK = RetryPolicy(total_s=5, tries=3, base_s=0.001, cap_s=0.01)
Handler = Callable[[httpx2.Request], httpx2.Response]


class Server:
    """Answers by (method, path); each answer is JSON, a status, or a function of the request."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers
        self.seen: list[httpx2.Request] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        self.bodies.append(request.read())
        path = request.url.path.partition("/v1")[2]
        answer = self.answers.get((request.method, path), 404)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx2.Response(answer, json={"error": {"message": f"says {answer}"}})
        return httpx2.Response(200, json=answer)

    def sent(self, method: str, path: str) -> list[Any]:
        """Bodies of these requests, as JSON."""
        found = zip(self.seen, self.bodies, strict=True)
        return [
            json.loads(body) for one, body in found if (one.method, one.url.path.partition("/v1")[2]) == (method, path)
        ]


def azure(server: Server) -> Azure:
    client = Azure(
        Provider("azure", "azure", "Azure OpenAI", "https://r.openai.azure.com/openai/v1", "key"),
        retry_policy=QUICK,
        transport=httpx2.MockTransport(server),
    )
    client.wait = lambda seconds: None
    return client


def together(server: Server) -> Together:
    provider = Provider("together", "compatible", "Together", "https://api.together.ai/v1", "key")
    return Together(provider, retry_policy=QUICK, transport=httpx2.MockTransport(server))


def file(status: str = "processed", id: str = "file-1", name: str = "fabula-i1.jsonl") -> dict[str, Any]:
    more = {"bytes": 1, "created_at": 1, "filename": name, "purpose": "fine-tune", "status_details": "row 3"}
    return {"id": id, "object": "file", "status": status, **more}


def listed(*data: Any) -> dict[str, Any]:
    return {"object": "list", "data": list(data), "has_more": False}


AZURE_JOB: dict[str, Any] = {
    "id": "ftjob-1",
    "object": "fine_tuning.job",
    "created_at": 1_700_000_000,
    "model": "gpt-4.1-mini-2025-04-14",
    "status": "pending",
    "training_file": "file-1",
    "validation_file": None,
    "hyperparameters": {"n_epochs": -1, "batch_size": -1, "learning_rate_multiplier": 1},
    "result_files": None,
}
TOGETHER_JOB: dict[str, Any] = {
    "id": "ft-0123",
    "status": "completed",
    "created_at": "2026-05-17T17:35:45.123Z",
    "updated_at": "2026-05-17T18:46:23.456Z",
    "token_count": 850_000,
    "model": "meta-llama/Llama-3.2-1B-Instruct",
    "model_output_name": "me/Llama-3.2-1B-Instruct-ultraman-32162631",
    "n_epochs": 3,
    "training_file": "file-1",
    "events": [],
}
REQUEST = JobRequest("gpt-4.1-mini-2025-04-14", "file-1", suffix="u", n_epochs=2, integrations=(("wandb", "p"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "fabula-i1.jsonl"
    path.write_bytes(b"x" * 200_000)
    return path


# --- Azure ---------------------------------------------------------------------------------------------------------


def test_azure_waits_until_the_file_is_imported_and_sends_its_key(path: Path) -> None:
    server = Server({("POST", "/files"): file("pending"), ("GET", "/files/file-1"): [file("running"), file()]})
    seen: list[int] = []
    assert azure(server).upload(path, on_progress=lambda sent, size: seen.append(sent)) == "file-1"
    assert [one.method for one in server.seen] == ["POST", "GET", "GET"]
    assert server.seen[0].headers["api-key"] == "key" and seen[-1] == 200_000
    assert server.seen[0].url.path == "/openai/v1/files"


def test_a_file_that_azure_cannot_import_is_told(path: Path) -> None:
    server = Server({("POST", "/files"): file("pending"), ("GET", "/files/file-1"): file("error")})
    with pytest.raises(BadTrainingFile, match="row 3"):
        azure(server).upload(path)


def test_an_azure_job_is_one_post_and_is_told_with_azures_own_word() -> None:
    server = Server({("POST", "/fine_tuning/jobs"): AZURE_JOB})
    made = azure(server).create_job(REQUEST, "i1")
    assert (made.id, made.status, made.result_files) == ("ftjob-1", "pending", ())
    (body,) = server.sent("POST", "/fine_tuning/jobs")
    assert body["metadata"] == {"fabula_intent": "i1"} and "integrations" not in body


@pytest.mark.parametrize("fault", [502, 504, 429, httpx2.ReadTimeout("slow"), httpx2.ConnectError("away")])
@pytest.mark.parametrize("make", [azure, together])
def test_a_job_is_never_sent_twice(make: Callable[[Server], Client], fault: Any) -> None:
    paths = ("/fine_tuning/jobs", "/fine-tunes")
    server = Server({("POST", one): fault for one in paths} | {("GET", one): listed() for one in paths})
    with pytest.raises(ProviderError):
        make(server).create_job(REQUEST, "i1")
    assert [one.method for one in server.seen].count("POST") == 1


@pytest.mark.parametrize(
    ("marked", "name", "found"),
    [("i1", "other.jsonl", True), (None, "fabula-i1.jsonl", True), (None, "fabula-i2.jsonl", False)],
)
def test_an_azure_job_is_found_by_its_mark_or_by_its_file(marked: str | None, name: str, found: bool) -> None:
    job = {**AZURE_JOB, "metadata": {"fabula_intent": marked} if marked else None}
    server = Server({("GET", "/fine_tuning/jobs"): listed(job), ("GET", "/files"): listed(file(name=name))})
    assert (azure(server).find_job("i1") is not None) == found


@pytest.mark.parametrize(
    ("status", "reported", "billable"),
    [("failed", None, 0), ("failed", 900, 0), ("cancelled", None, None), ("succeeded", 900, 900)],
)
def test_a_failed_azure_job_is_free(status: str, reported: int | None, billable: int | None) -> None:
    job = {**AZURE_JOB, "status": status, "trained_tokens": reported}
    assert azure(Server({("GET", "/fine_tuning/jobs/ftjob-1"): job})).job("ftjob-1").trained_tokens == billable


def test_azure_cannot_pause() -> None:
    with pytest.raises(BadRequest, match="cannot pause"):
        azure(Server({})).pause("ftjob-1")


# --- Together ------------------------------------------------------------------------------------------------------


def test_a_file_goes_to_together_under_its_name(path: Path) -> None:
    server = Server({("POST", "/files/upload"): {"id": "file-9"}})
    seen: list[int] = []
    assert together(server).upload(path, on_progress=lambda sent, size: seen.append(sent)) == "file-9"
    body = server.bodies[0]
    assert b"fabula-i1.jsonl" in body and b"file_name" in body and b"x" * 200_000 in body and seen[-1] == 200_000
    with pytest.raises(Unavailable):
        together(Server({("POST", "/files/upload"): 502})).upload(path)


def test_a_together_job_says_what_it_wants_in_togethers_words() -> None:
    server = Server({("POST", "/fine-tunes"): {**TOGETHER_JOB, "status": "pending"}, ("GET", "/fine-tunes"): listed()})
    request = JobRequest("base", "file-1", "file-2", "u", 7, n_epochs=3, batch_size=8, learning_rate_multiplier=0.2)
    made = together(server).create_job(request, "i1")
    assert (made.status, made.fine_tuned_model, made.result_files) == ("pending", None, ())
    assert server.sent("POST", "/fine-tunes") == [
        {
            "training_file": "file-1",
            "model": "base",
            "n_epochs": 3,
            "n_checkpoints": 3,
            "validation_file": "file-2",
            "n_evals": 3,
            "learning_rate": pytest.approx(2e-6),
            "batch_size": 8,
            "suffix": "u",
            "random_seed": 7,
        }
    ]


@pytest.mark.parametrize(("step", "start"), [("", "ft-0123"), (":20", "ft-0123:20")])
def test_a_tuned_model_is_trained_further_from_where_its_job_ended(step: str, start: str) -> None:
    server = Server({("POST", "/fine-tunes"): TOGETHER_JOB, ("GET", "/fine-tunes"): listed(TOGETHER_JOB)})
    together(server).create_job(JobRequest(f"{TOGETHER_JOB['model_output_name']}{step}", "file-1"), "i1")
    (body,) = server.sent("POST", "/fine-tunes")
    assert body == {"training_file": "file-1", "model": TOGETHER_JOB["model"], "from_checkpoint": start}


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        ("completed", "succeeded"), ("error", "failed"), ("user_error", "failed"), ("cancelled", "cancelled"),
        ("cancel_requested", "running"), ("compressing", "compressing"),
    ],
)  # fmt: skip
def test_a_together_job_is_told_in_our_words(status: str, ours: str) -> None:
    progress = {"estimate_available": True, "seconds_remaining": 60}
    events = [{"level": "error", "message": "Row 3 is broken."}]
    job = {**TOGETHER_JOB, "status": status, "progress": progress, "events": events}
    remote_job = together(Server({("GET", "/fine-tunes/ft-0123"): job})).job("ft-0123")
    assert remote_job.status == ours and remote_job.estimated_finish is not None
    assert (remote_job.error == "Row 3 is broken.") == (ours == "failed")
    assert (remote_job.fine_tuned_model is not None) == (ours == "succeeded")
    assert remote_job.trained_tokens == (850_000 if ours == "succeeded" else None)  # the count is the whole job's
    assert remote_job.created_at == datetime(2026, 5, 17, 17, 35, 45, 123_000, UTC)


def test_togethers_metrics_are_a_results_file() -> None:
    metrics = [
        {"train/global_step": 7, "train/loss": 0.5, "train/learning_rate": 1e-4},
        {"train/global_step": 14, "train/loss": 0.45},
        {"train/global_step": 14, "eval/loss": 0.6, "eval/token_accuracy": "0.5"},
        {"train/global_step": 21, "train/loss": "N/A", "eval/loss": -1.0, "train/token_accuracy": -1},
        {"train/global_step": "n/a", "train/loss": 9.0},
        {"noise": 1},
    ]
    server = Server({("GET", "/fine-tunes/ft-0123/metrics"): {"metrics": metrics}})
    results = parse(together(server).file_text("metrics:ft-0123"))
    assert (results.steps, results.last("training_loss"), results.last("validation_loss")) == (3, 0.45, 0.6)
    assert (results.last("validation_token_accuracy"), results.last("training_token_accuracy")) == (0.5, None)


def test_togethers_events_are_told_once_each_oldest_first() -> None:
    events = [
        {"created_at": "2026-05-17T17:36:00Z", "level": "info", "message": "b", "type": "epoch_complete", "hash": ""},
        {"created_at": "2026-05-17T17:35:00Z", "level": "legacy_iwarning", "message": "a", "type": "job_start"},
    ]
    client = together(Server({("GET", "/fine-tunes/ft-0123/events"): listed(*events)}))
    parsed_events = client.events("ft-0123")
    assert [(one.message, one.level) for one in parsed_events] == [("a", "warning"), ("b", "info")]
    assert [one.message for one in client.events("ft-0123", parsed_events[0].id)] == ["b"]


def test_togethers_checkpoints_can_be_trained_further() -> None:
    made = [
        {"step": step, "created_at": "2026-05-17T17:36:00Z", "path": "p", "checkpoint_type": "t"} for step in (20, 10)
    ]
    server = Server(
        {("GET", "/fine-tunes/ft-0123/checkpoints"): listed(*made), ("GET", "/fine-tunes/ft-0123"): TOGETHER_JOB}
    )
    found = together(server).checkpoints("ft-0123")
    assert [one.step for one in found] == [10, 20] and found[0].model.endswith("32162631:10")


def test_a_together_job_is_found_by_its_file() -> None:
    server = Server({("GET", "/files"): listed(file()), ("GET", "/fine-tunes"): listed(TOGETHER_JOB)})
    found = together(server).find_job("i1")
    assert found is not None and found.id == "ft-0123"
    assert together(server).find_job("i2") is None


def test_togethers_models_are_listed_without_an_object_around_them() -> None:
    text_model = {"id": "a", "object": "model", "created": 1, "type": "chat"}
    server = Server({("GET", "/models"): [[text_model, {"id": "b", "object": "model", "type": "image"}]]})
    assert [one.id for one in together(server).models()] == ["a"]


def test_what_together_cannot_or_does_not_have_is_told() -> None:
    client = together(Server({("POST", "/fine-tunes/ft-0123/cancel"): {**TOGETHER_JOB, "status": "cancel_requested"}}))
    for call in (client.pause, client.resume):
        with pytest.raises(BadRequest, match="cannot pause"):
            call("ft-0123")
    with pytest.raises(NotFound):
        client.job("ft-gone")
    assert client.cancel("ft-0123").status == "running"
    with pytest.raises(Unavailable):
        together(Server({("GET", "/fine-tunes/x"): ["nonsense"]})).job("x")


# --- registry -----------------------------------------------------------------------------------------------


def test_keys_make_providers(settings: Settings) -> None:
    environ = {
        "AZURE_OPENAI_API_KEY": "a",
        "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com/",
        "TOGETHER_API_KEY": "t",
    }
    registry = Registry.from_settings(settings, environ)
    assert registry.ids() == ["engine", "azure", "together"]
    assert isinstance(registry.get("azure"), Azure) and isinstance(registry.get("together"), Together)
    assert registry.provider("azure").base_url == "https://r.openai.azure.com/openai/v1"
    assert Registry.from_settings(settings, {"AZURE_OPENAI_API_KEY": "a"}).ids() == ["engine"]


# --- large files ---------------------------------------------------------------------------------------------------


class Sink(BaseHTTPRequestHandler):
    """Accepts an upload of any size and only counts its bytes."""

    taken = 0

    def do_POST(self) -> None:
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 16)))
        Sink.taken = int(self.headers["content-length"])
        body = json.dumps(file()).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """No log output."""


@pytest.mark.parametrize("make", [Client, Together])
def test_a_large_file_is_sent_without_being_held(tmp_path: Path, make: type[Client]) -> None:
    large = tmp_path / "large.jsonl"
    with large.open("wb") as written:
        written.truncate(64 << 20)
    seen: list[int] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = make(Provider("x", "compatible", "X", f"http://127.0.0.1:{server.server_address[1]}/v1", "key"))
        tracemalloc.start()
        assert client.upload(large, on_progress=lambda sent, size: seen.append(sent)) == "file-1"
        _now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        server.shutdown()
    assert Sink.taken > 64 << 20 and seen[-1] == 64 << 20 and len(seen) > 100
    assert peak < 16 << 20
