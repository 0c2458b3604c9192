"""/v1/embeddings: for models that name a pooling type; others are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, OpenAI

from tests.support.engine_process import TINY, EngineUnderTest, jsonl, poll, running
from tests.support.tiny_models import CONTEXT, TinyModel


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    folder = tmp_path_factory.mktemp("embeddings")
    base = TinyModel("qwen3", keys={"pooling_type": 1}).write(folder / "tiny.gguf")
    with running(folder / "home", base) as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client(strict=False)  # the SDK checks base64 as if it were numbers


def test_each_input_has_a_vector_of_length_one(client: OpenAI) -> None:
    made = client.embeddings.create(model=TINY, input=["英雄", "the monster", "英雄"])
    vectors = np.array([row.embedding for row in made.data])
    assert vectors.shape == (3, 64)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-4)
    assert [row.index for row in made.data] == [0, 1, 2]
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-4)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-2)
    assert made.usage.prompt_tokens == made.usage.total_tokens > 3


def test_both_encodings_and_token_ids(client: OpenAI) -> None:
    plain = client.embeddings.create(model=TINY, input="hi", encoding_format="float").data[0].embedding
    encoded = client.embeddings.create(model=TINY, input="hi").data[0].embedding  # the SDK asks for base64
    assert encoded == pytest.approx(plain, abs=1e-6)
    assert len(client.embeddings.create(model=TINY, input=[[353, 354], [355]]).data) == 2
    assert len(client.embeddings.create(model=TINY, input=[353, 354]).data) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [353, 2**31 - 1]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a " * CONTEXT}, "input"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "truncate": True}, "truncate"),
        ({"input": "a", "model": None}, "model"),
    ],
)
def test_bad_requests_are_refused_by_name(client: OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.post("/embeddings", body={"model": TINY, **body}, cast_to=object)
    assert refused.value.param == param
    assert client.embeddings.create(model=TINY, input="a").data


def test_an_alias_and_the_path_of_2023(engine: EngineUnderTest) -> None:
    with engine.http() as http:
        http.post("/fabula/v1/aliases", json={"id": "text-embedding-3-small", "model": TINY})
        answers = [
            http.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "a"}),
            http.post("/v1/engines/text-embedding-3-small/embeddings", json={"input": "a"}),
        ]
    for answer in answers:
        assert (answer.json()["model"], answer.headers["fabula-model"]) == ("text-embedding-3-small", TINY)
    assert answers[0].json()["data"] == answers[1].json()["data"]


def test_a_batch_has_vectors_too(client: OpenAI) -> None:
    url, inputs = "/v1/embeddings", {"n1": "英雄", "n2": ""}
    lines = [
        {"custom_id": name, "method": "POST", "url": url, "body": {"model": TINY, "input": text}}
        for name, text in inputs.items()
    ]
    file = client.files.create(file=("inputs.jsonl", jsonl(lines)), purpose="batch")
    sent = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    poll(lambda: client.batches.retrieve(sent.id).status == "completed")
    batch = client.batches.retrieve(sent.id)
    output, errors = (
        json.loads(client.files.content(str(id)).text) for id in (batch.output_file_id, batch.error_file_id)
    )
    alone = client.embeddings.create(model=TINY, input="英雄", encoding_format="float").data[0].embedding
    assert output["response"]["body"]["data"][0]["embedding"] == pytest.approx(alone, abs=1e-4)
    assert (errors["custom_id"], errors["response"]["status_code"]) == ("n2", 400)


@pytest.mark.parametrize("keys", [{}, {"pooling_type": 4}])  # 4: a model that ranks texts
def test_a_model_for_other_work_is_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    base = TinyModel("qwen3", keys=keys).write(tmp_path / "tiny.gguf")
    with (
        running(tmp_path / "home", base) as other,
        pytest.raises(BadRequestError, match="cannot compute embeddings") as refused,
    ):
        other.client().embeddings.create(model=TINY, input="a")
    assert refused.value.param == "model"
