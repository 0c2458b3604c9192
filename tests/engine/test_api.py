"""The engine's API as the official SDK sees it, strictly validated, against a real process with a tiny model."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from openai import OpenAI

from core.engine.api.upload import MAX_FILE_BYTES
from core.engine.job_rules import PARALLEL
from tests.support.engine_process import (
    DEADLINE_S,
    TINY,
    TOKEN,
    EngineUnderTest,
    jsonl,
    pairs,
    poll,
    running,
    upload,
)
from tests.support.tiny_models import TinyModel

_FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n--b--\r\n'
_BAD_FORMS = [
    "multipart/form-data; boundary=" + "b" * 257,
    "multipart/form-data; boundary=" + "b" * 300,
    "multipart/form-data; boundary=" + "b" * 15_000,  # headers above 16 KB are refused by h11
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary=""',
    "multipart/form-data",
    "multipart/mixed; boundary=b",
    "multipart/form-data; boundary=c",
    "multipart/form-data; boundary=" + "b" * 256,
]
PROMPT = "宋,发射激光,艰难 ->\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("api") / "home") as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


# --- authentication --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["wrong", TOKEN[:-1], TOKEN + "x"])
def test_a_wrong_token_is_401(engine: EngineUnderTest, token: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        engine.client(token=token).models.list()
    assert caught.value.status_code == 401
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"BEARER  {TOKEN}", 200),
        (f"Basic {TOKEN}", 401),
        (f"bearer {TOKEN}x", 401),
        (f"bearer{TOKEN}", 401),
        (TOKEN, 401),
        ("bearer", 401),
    ],
)
def test_only_the_name_of_the_scheme_may_be_in_any_case(engine: EngineUnderTest, header: str, status: int) -> None:
    with engine.http() as http:
        assert http.get("/v1/models", headers={"authorization": header}).status_code == status


def test_health_answers_everyone_but_tells_more_to_those_with_a_token(engine: EngineUnderTest) -> None:
    with engine.http() as http:
        brief = http.get("/health", headers={"authorization": ""}).json()
        full = http.get("/health").json()
    assert brief == {"status": "ok", "version": full["version"]}
    assert full["training"] is None
    assert full["queue"] == 0
    assert TINY in full["models"]


def test_every_answer_has_a_request_id(client: OpenAI) -> None:
    response = client.models.with_raw_response.list()
    assert response.headers["x-request-id"].startswith("req_")


# --- errors in OpenAI's format ------------------------------------------------------------------------------------


def test_an_unknown_model_is_404_everywhere(client: OpenAI) -> None:
    file_id = upload(client, pairs(2))
    calls: list[Any] = [
        lambda: client.completions.create(model="gpt-4o", prompt="a"),
        lambda: client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "a"}]),
        lambda: client.completions.create(model="gpt-4o", prompt="a", stream=True),
        lambda: client.models.retrieve("gpt-4o"),
        lambda: client.models.delete("ft:gpt-4o:org::abc"),
        lambda: client.fine_tuning.jobs.create(model="gpt-4o", training_file=file_id),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "model_not_found"
    assert client.fine_tuning.jobs.list().data == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/nothing", None, 404, "unknown_url"),
        ("PUT", "/v1/models", None, 405, "method_not_allowed"),
        ("POST", "/v1/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/completions", b"[]", 400, "invalid_json"),
        ("POST", "/v1/completions", b'{"prompt": "a"}', 400, "missing_required_parameter"),
        ("POST", "/v1/completions", b'{"model": "tiny-gemma", "prompt": {}}', 400, "invalid_value"),
        ("POST", "/v1/completions", b'{"model": "tiny-gemma", "prompt": "\\ud800"}', 400, "invalid_json"),
        ("POST", "/v1/completions", b'{"model": ["a"]}', 404, "model_not_found"),
        ("POST", "/v1/chat/completions", b'{"model": "tiny-gemma"}', 400, "missing_required_parameter"),
        ("POST", "/v1/chat/completions", b'{"model": "tiny-gemma", "messages": ["a"]}', 400, "invalid_value"),
        ("POST", "/v1/completions", b'{"a": "' + b"x" * (17 << 20) + b'"}', 413, "body_too_large"),
        ("GET", "/v1/files?limit=0", None, 400, "invalid_value"),
        ("GET", "/v1/files?limit=ten", None, 400, "invalid_value"),
        ("GET", "/v1/files?after=file-x", None, 400, "invalid_value"),
        ("GET", "/v1/files?order=up", None, 400, "invalid_value"),
        ("GET", "/v1/files/..%2Fengine.db/content", None, 404, None),
        ("GET", "/v1/files/engine.db", None, 404, "file_not_found"),
        ("GET", "/v1/fine_tuning/jobs/ftjob-x", None, 404, "fine_tuning_job_not_found"),
        ("GET", "/v1/fine_tuning/jobs/ftjob-x/events", None, 404, "fine_tuning_job_not_found"),
        ("POST", "/v1/fine_tuning/jobs/ftjob-x/cancel", None, 404, "fine_tuning_job_not_found"),
        ("POST", "/v1/files", b"plain", 400, "invalid_form"),
        *(("POST", f"/v1/files#{kind}", _FORM, 400, "invalid_form") for kind in _BAD_FORMS),
    ],
)
def test_an_error_has_openais_format_and_tells_no_path_of_the_home(
    engine: EngineUnderTest, method: str, path: str, body: bytes | None, status: int, code: str | None
) -> None:
    with engine.http() as http:
        path, _, kind = path.partition("#")
        answer = http.request(method, path, content=body, headers={"content-type": kind} if kind else {})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error.keys() - {"fabula"} == {"message", "type", "param", "code"}
    assert code is None or error["code"] == code
    assert str(engine.home) not in answer.text


# --- models -----------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_found(client: OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids[:2] == ["gemma-3-270m", TINY]
    model = client.models.retrieve(TINY)
    expected = {"base": TINY, "format": "both", "job": None, "step": None, "not_trainable": None}
    extra = (model.model_extra or {})["fabula"]
    assert 0 < extra.pop("context") <= 4096  # tokens of prompt and answer together
    assert extra.pop("training").keys() == {"learning_rate", "lora_rank", "lora_alpha"}
    assert extra == expected | {"parallel": PARALLEL}


def test_a_base_model_cannot_be_deleted(client: OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete(TINY)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_comes_back_byte_by_byte(client: OpenAI) -> None:
    content = pairs(50)
    file = client.files.create(file=("故事 1.jsonl", content), purpose="fine-tune")
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(content),
        "故事 1.jsonl",
        "fine-tune",
        "processed",
    )
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True)
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)


def test_the_name_of_a_file_is_never_a_path(client: OpenAI, engine: EngineUnderTest) -> None:
    file = client.files.create(file=("../../evil\x00.jsonl", b"{}"), purpose="fine-tune")
    assert "/" not in file.filename
    assert not list(engine.home.parent.rglob("evil*"))


def test_paging_through_files(client: OpenAI) -> None:
    ids = [upload(client, pairs(1), f"{number}.jsonl") for number in range(5)]
    newest = [file.id for file in client.files.list(limit=2)]  # the SDK follows the pagination
    assert newest[:5] == ids[::-1]
    oldest = [file.id for file in client.files.list(order="asc", limit=2)]
    assert oldest == newest[::-1]
    page = client.files.list(limit=2)
    client.files.delete(page.data[-1].id)  # a file that is deleted between two pages does not break paging
    assert [file.id for file in page.get_next_page().data] == newest[2:4]
    assert client.files.list(purpose="fine-tune-results").data == []
    assert not client.files.list(after=client.files.list(order="asc", limit=1).data[0].id).data


def test_files_may_expire(engine: EngineUnderTest, client: OpenAI) -> None:
    file = client.files.create(
        file=("a.jsonl", b"{}"), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    with closing(sqlite3.connect(engine.home / "engine.db", timeout=DEADLINE_S)) as database, database:
        database.execute("UPDATE files SET expires_at = 1 WHERE id = ?", (file.id,))
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    poll(lambda: not (engine.home / "files" / file.id).exists())


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"file": ("a", b"")}, "file"),
        ({"purpose": "assistants"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after[seconds]"),
    ],
)
def test_a_wrong_upload_is_refused_with_the_name_of_its_parameter(
    client: OpenAI, arguments: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(**{"file": ("a", b"{}"), "purpose": "fine-tune", **arguments})
    assert caught.value.param == param


def test_a_cut_upload_leaves_nothing(engine: EngineUnderTest, client: OpenAI) -> None:
    before = len(client.files.list().data)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with engine.http() as http:
        answer = http.post(
            "/v1/files", content=head + b"half", headers={"content-type": "multipart/form-data; boundary=x"}
        )
    assert answer.json()["error"]["message"] == "The form is incomplete."
    assert len(client.files.list().data) == before
    assert list((engine.home / "files" / "incoming").iterdir()) == []


def test_too_large_an_upload_is_refused_before_it_is_read(engine: EngineUnderTest) -> None:
    with socket.create_connection(("127.0.0.1", int(engine.url.split(":")[2].split("/")[0]))) as connection:
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {MAX_FILE_BYTES * 2}\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(100)


def test_an_upload_does_not_go_through_memory(engine: EngineUnderTest, client: OpenAI) -> None:
    assert engine.process is not None
    status = Path(f"/proc/{engine.process.pid}/status")
    if not status.exists():
        pytest.skip("reads /proc")
    upload(client, pairs(1))
    before = _peak_kib(status)
    size = 96 << 20
    file = client.files.create(file=("big.jsonl", b"x" * size), purpose="fine-tune")
    assert file.bytes == size
    assert _peak_kib(status) - before < 32 << 10
    client.files.delete(file.id)


def _peak_kib(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


# --- rejected jobs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pairs(2) + b'{"prompt": "a"\n' + pairs(2), "Line 3: It is not JSON"),
        (
            jsonl([{"messages": [{"role": "user", "content": "a"}]}]),
            "Line 1: Its last message is from the user, not the assistant.",
        ),
        (jsonl([{"prompt": "a", "completion": ""}]), "Line 1: Its completion is empty."),
        (b"dynasty,story\n\xcc\xc6,\xb9\xca\xca\xc2\n", "Line 1: It is not JSON"),
    ],
)
def test_a_broken_line_is_named_and_no_job_is_made(client: OpenAI, content: bytes, message: str) -> None:
    file_id = upload(client, content)
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(model=TINY, training_file=file_id)
    assert message in caught.value.message
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")
    assert client.fine_tuning.jobs.list().data == []


def test_a_job_needs_a_file_that_is_there(client: OpenAI) -> None:
    gone = upload(client, pairs(2))
    client.files.delete(gone)
    for file_id in (gone, "file-never"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.create(model=TINY, training_file=file_id)
        assert (caught.value.code, caught.value.param) == ("file_not_found", "training_file")
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(model=TINY, training_file=upload(client, pairs(2)), validation_file=gone)
    assert caught.value.param == "validation_file"


# --- completions ------------------------------------------------------------------------------------------------------


def test_completions_with_a_seed_are_numbered_counted_and_repeatable(client: OpenAI) -> None:
    made = client.completions.create(model=TINY, prompt=PROMPT, max_tokens=12, n=3, seed=1, temperature=1.2)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert len({choice.text for choice in made.choices}) == 3
    assert {choice.finish_reason for choice in made.choices} <= {"length", "stop"}
    assert made.usage is not None
    assert made.usage.prompt_tokens == 1 + len(_tokens(PROMPT))  # with <bos>, once for all three
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    again = client.completions.create(model=TINY, prompt=PROMPT, max_tokens=12, n=3, seed=1, temperature=1.2)
    assert again.choices == made.choices


def _tokens(text: str) -> list[str]:
    """In the tiny vocabulary every character of PROMPT is a token, or three bytes."""
    return [part for letter in text for part in ([letter] if letter in "宋光,->\n " else ["b"] * 3)]


def test_completions_take_token_ids_and_several_prompts(client: OpenAI) -> None:
    one = client.completions.create(model=TINY, prompt=[2, 7, 290], max_tokens=4, temperature=0)
    several = client.completions.create(model=TINY, prompt=[[2, 7, 290], [2, 7]], max_tokens=4, temperature=0, n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text == one.choices[0].text
    texts = client.completions.create(model=TINY, prompt=["a", "b"], max_tokens=4)
    assert len(texts.choices) == 2


def test_completions_end_at_a_stop_that_is_not_in_the_text(client: OpenAI) -> None:
    options: Any = {"model": TINY, "prompt": PROMPT, "max_tokens": 60, "seed": 4}
    free = client.completions.create(**options).choices[0]
    stop = next(letter for letter in free.text[3:] if letter.isalnum())
    for stops in (stop, ["never", stop]):
        cut = client.completions.create(**options, stop=stops).choices[0]
        assert cut.finish_reason == "stop"
        assert cut.text == free.text[: free.text.index(stop)]


def test_streamed_completions_say_the_same(engine: EngineUnderTest) -> None:
    # OpenAI's own server sends `finish_reason: null` until the end; the SDK's type does not allow that, so strict
    # validation would reject OpenAI itself here.
    client = engine.client(strict=False)
    whole = client.completions.create(model=TINY, prompt=PROMPT, max_tokens=20, seed=3, n=2)
    stream = client.completions.create(
        model=TINY, prompt=PROMPT, max_tokens=20, seed=3, n=2, stream=True, stream_options={"include_usage": True}
    )
    texts, reasons, usage = ["", ""], ["", ""], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_with_a_seed_answers_are_written_one_after_the_other(engine: EngineUnderTest) -> None:
    # Together they would be one batch whose size depends on timing, and batches of another size round differently.
    chunks = engine.client(strict=False).completions.create(
        model=TINY, prompt=["a", "b"], max_tokens=9, seed=1, n=3, stream=True, logit_bias={"1": -100, "6": -100}
    )
    indexes = [choice.index for chunk in chunks for choice in chunk.choices]
    assert indexes == sorted(indexes)
    assert set(indexes) == set(range(6))


def test_chat_streamed_and_not(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "你是作家"}, {"role": "user", "content": "写一个故事"}]
    whole = client.chat.completions.create(
        model=TINY,
        messages=messages,
        max_completion_tokens=20,
        seed=3,
        n=3,
        presence_penalty=0.5,
        frequency_penalty=0.5,
    )
    assert whole.choices[0].message.role == "assistant"
    chunks = list(
        client.chat.completions.create(
            model=TINY,
            messages=messages,
            max_tokens=20,
            seed=3,
            n=3,
            presence_penalty=0.5,
            frequency_penalty=0.5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert [chunk.choices[0].delta.role for chunk in chunks[:3]] == ["assistant"] * 3
    texts, reasons = ["", "", ""], ["", "", ""]
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_prompt_beyond_the_context_is_refused_in_words(client: OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=TINY, prompt="a " * 2000, max_tokens=5, stream=stream)
        assert caught.value.code == "context_length_exceeded"
        assert "512 tokens" in caught.value.message


def test_token_ids_that_are_not_in_the_vocabulary_are_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=TINY, prompt=[999_999], max_tokens=5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_and_a_limit_beyond_the_context_are_refused_in_openais_words(client: OpenAI, stream: bool) -> None:
    tokens = 1 + len(_tokens(PROMPT))
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=TINY, prompt=PROMPT, max_tokens=500, stream=stream)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    figures = f"you requested {tokens + 500} tokens ({tokens} in the prompt, 500 in the completion)"
    assert f"maximum context length is 512 tokens. However, {figures}" in caught.value.message
    with pytest.raises(openai.BadRequestError) as chatting:
        client.chat.completions.create(
            model=TINY, messages=[{"role": "user", "content": "a"}], max_completion_tokens=512, stream=stream
        )
    assert (chatting.value.code, chatting.value.param) == ("context_length_exceeded", "messages")
    assert "in the messages, 512 in the completion)" in chatting.value.message
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model=TINY, messages=[{"role": "user", "content": "a " * 999}], stream=stream)
    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError, match=r"your prompt has more than \d+ tokens") as not_counted:
        client.completions.create(model=TINY, prompt="a " * 9_999, stream=stream)
    assert (not_counted.value.code, not_counted.value.param) == ("context_length_exceeded", "prompt")


def test_a_prompt_may_be_null(client: OpenAI) -> None:
    options: Any = {"model": TINY, "max_tokens": 4, "temperature": 0}
    made = [client.completions.create(prompt=prompt, **options).choices[0].text for prompt in (None, "")]
    assert made[0] == made[1] == client.completions.create(prompt=[2], **options).choices[0].text


def test_a_model_without_a_first_token_needs_no_prompt_either(
    engine: EngineUnderTest, client: OpenAI, tmp_path: Path
) -> None:
    path = TinyModel("qwen3", adds_bos=False).write(tmp_path / "no-bos.gguf")
    with engine.http() as http:
        http.post("/fabula/v1/bases", json={"source": "file", "path": str(path)})
        poll(lambda: http.get("/fabula/v1/bases/no-bos").json()["state"] == "ready")
        made = client.completions.create(model="no-bos", prompt=None, max_tokens=4)
        assert made.usage is not None
        assert (made.usage.prompt_tokens, made.usage.completion_tokens > 0) == (1, True)
        http.delete("/fabula/v1/bases/no-bos")


def test_an_answer_may_fill_the_context(client: OpenAI) -> None:
    made = client.completions.create(
        model=TINY, prompt=PROMPT, max_tokens=5000, temperature=0, logit_bias={"1": -100, "6": -100},
        extra_headers={"fabula-clamp-max-tokens": "1"},
    )  # fmt: skip
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert made.usage.total_tokens <= 513


def test_many_prompts_with_many_choices_are_numbered_in_order(client: OpenAI) -> None:
    made = client.completions.create(model=TINY, prompt=["a", "b", "c", "d"], n=6, max_tokens=8)
    assert [choice.index for choice in made.choices] == list(range(24))


def test_tokens_are_counted(engine: EngineUnderTest) -> None:
    with engine.http() as http:
        answer = http.post("/fabula/v1/tokenize", json={"model": TINY, "text": PROMPT})
    assert answer.json() == {"tokens": len(_tokens(PROMPT))}


def test_health_tells_the_speed_of_the_last_answer(engine: EngineUnderTest, client: OpenAI) -> None:
    client.completions.create(model=TINY, prompt="a", max_tokens=50, logit_bias={"1": -100, "6": -100})
    with engine.http() as http:
        health = http.get("/health").json()
    assert health["tokens_per_s"] > 0
    assert health["generating"] == 0
