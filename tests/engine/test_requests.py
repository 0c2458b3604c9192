"""Parameters: OpenAI's limits; unsupported ones are rejected, not ignored."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.fine_tuning import job_create_params

from core.engine.api import job_request
from core.engine.api.errors import ApiError
from core.engine.chat_messages import BadLine
from core.engine.finetune_format import parse_line
from core.engine.serving import chat, sampling
from core.engine.training_options import TrainingOptions
from tests.support.engine_process import jsonl

_PATH = "method.supervised.hyperparameters."
_DPO_PATH = "method.dpo.hyperparameters."
_USER = {"role": "user", "content": "a"}
MINIMUM = {"model": "m", "training_file": "file-1"}


def hyper(**values: object) -> dict[str, Any]:
    return {**MINIMUM, "method": {"type": "supervised", "supervised": {"hyperparameters": values}}}


def _dpo(**values: object) -> dict[str, Any]:
    return {**MINIMUM, "method": {"type": "dpo", "dpo": {"hyperparameters": values}}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (MINIMUM, (None, None, None)),
        (hyper(n_epochs="auto", batch_size="auto", learning_rate_multiplier="auto"), (None, None, None)),
        (hyper(n_epochs=2, batch_size=8, learning_rate_multiplier=0.5), (2, 8, 0.5)),
        (
            {**MINIMUM, "hyperparameters": {"n_epochs": 4, "batch_size": 1, "learning_rate_multiplier": 0.2}},
            (4, 1, 0.2),
        ),
    ],
)
def test_hyperparameters_old_and_new(body: dict[str, Any], expected: tuple[object, ...]) -> None:
    wanted = job_request.parse(body)
    assert (wanted.n_epochs, wanted.batch_size, wanted.learning_rate_multiplier) == expected


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"training_file": "file-1"}, "model", "missing_required_parameter"),
        ({"model": "m"}, "training_file", "missing_required_parameter"),
        ({**MINIMUM, "suffix": "has spaces"}, "suffix", "invalid_value"),
        ({**MINIMUM, "suffix": "a" * 65}, "suffix", "invalid_value"),
        ({**MINIMUM, "suffix": "a:b"}, "suffix", "invalid_value"),
        ({**MINIMUM, "seed": -1}, "seed", "invalid_value"),
        ({**MINIMUM, "seed": True}, "seed", "invalid_value"),
        ({**MINIMUM, "n_epochs": 3}, "n_epochs", "unknown_parameter"),
        ({**MINIMUM, "integrations": [{"type": "mlflow"}]}, "integrations[0].type", "unsupported_parameter"),
        ({**MINIMUM, "method": {"type": "reinforcement"}}, "method.type", "unsupported_parameter"),
        ({**MINIMUM, "method": {"type": ["supervised"]}}, "method.type", "unsupported_parameter"),
        ({**MINIMUM, "method": {"dpo": {"hyperparameters": {"beta": 1}}}}, "method.type", "unsupported_parameter"),
        ({**MINIMUM, "method": {"type": "supervised", "sft": {"a": 1}}}, "method.sft", "unknown_parameter"),
        ({**MINIMUM, "metadata": {"a": 1}}, "metadata.a", "invalid_value"),
        ({**MINIMUM, "hyperparameters": {"batch_size": 0}}, "hyperparameters.batch_size", "invalid_value"),
        ({**MINIMUM, "metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
        (hyper(n_epochs=0), _PATH + "n_epochs", "invalid_value"),
        (hyper(n_epochs=2.5), _PATH + "n_epochs", "invalid_value"),
        (hyper(batch_size=257), _PATH + "batch_size", "invalid_value"),
        (hyper(learning_rate_multiplier=0), _PATH + "learning_rate_multiplier", "invalid_value"),
        (hyper(lora_rank=0), _PATH + "lora_rank", "invalid_value"),
        (hyper(lora_alpha=0), _PATH + "lora_alpha", "invalid_value"),
        (hyper(warmup=0.6), _PATH + "warmup", "invalid_value"),
        (hyper(schedule="steps"), _PATH + "schedule", "invalid_value"),
        (hyper(beta=0.1), _PATH + "beta", "unknown_parameter"),
        (_dpo(beta=0), _DPO_PATH + "beta", "invalid_value"),
        (_dpo(beta=2.1), _DPO_PATH + "beta", "invalid_value"),
        (_dpo(gamma=1), _DPO_PATH + "gamma", "unknown_parameter"),
        (hyper(early_stopping=2), _PATH + "early_stopping", "invalid_value"),  # without a validation file
        (hyper(learning_rate_multiplier=float("inf")), _PATH + "learning_rate_multiplier", "invalid_value"),
        (hyper(epochs=3), "method.supervised.hyperparameters.epochs", "unknown_parameter"),
    ],
)
def test_bad_job_requests_name_the_parameter(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        job_request.parse(body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0.0}, "max_tokens"),
        ({"max_tokens": False}, "max_tokens"),
        ({"max_tokens": 1 << 21}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": 6}, "logprobs"),
        ({"echo": "yes"}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7"),
        ({"stream": True, "stream_options": {"include_usage": 1.5}}, "stream_options.include_usage"),
        ({"top_k": 4}, "top_k"),
    ],
)
def test_bad_sampling_names_the_parameter(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        sampling.of_completion({"model": "m", "prompt": "p", **body})
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_chat_does_not_take_a_limit_of_no_tokens(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        sampling.of_chat({"model": "m", "messages": [], name: 0}, "<end_of_turn>")
    assert (caught.value.status, caught.value.param) == (400, name)


def test_sampling_in_llama_cpps_words() -> None:
    body = {"model": "m", "prompt": "p", "stop": ".", "temperature": 0.7, "top_p": 1, "seed": 5, "n": 3}
    made = sampling.of_completion(body)
    assert made.n == 3
    assert [made.seed_of(choice) for choice in range(3)] == [5, 6, 7]
    wanted = {"n_predict": 16, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "stop": ["."]}
    assert {name: made.options[name] for name in wanted} == wanted
    assert made.options["cache_prompt"] is False


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({}, -1),
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 7),
    ],
)
def test_the_newer_name_of_the_token_limit_wins(body: dict[str, Any], limit: int) -> None:
    made = sampling.of_chat({"model": "m", "messages": [], **body}, "<end_of_turn>")
    assert made.options["n_predict"] == limit
    assert made.options["stop"] == ["<end_of_turn>"]


@pytest.mark.parametrize(
    "body", [{"tools": []}, {"response_format": {"type": "text"}}, {"logprobs": False}, {"user": "u"}]
)
def test_harmless_parameters_are_taken(body: dict[str, Any]) -> None:
    sampling.of_chat({"model": "m", "messages": [], **body}, "<end_of_turn>")


@pytest.mark.parametrize(
    "body",
    [
        *(
            {name: None}
            for name in ("tools", "functions", "stop", "seed", "n", "stream", "temperature", "top_p", "user")
        ),
        *({name: None} for name in ("max_tokens", "max_completion_tokens", "logit_bias", "stream_options", "metadata")),
        *({name: None} for name in ("parallel_tool_calls", "function_call", "tool_choice", "audio", "prediction")),
        *({name: None} for name in ("response_format", "logprobs", "top_logprobs", "web_search_options", "unheard_of")),
        *({name: []} for name in ("tools", "functions", "modalities", "stop", "unheard_of")),
        *({name: {}} for name in ("response_format", "logit_bias", "stream_options", "metadata", "unheard_of")),
        *({name: ""} for name in ("stop", "user", "service_tier", "unheard_of")),
        {"parallel_tool_calls": False},
        {"parallel_tool_calls": True},
        {"prompt_cache_retention": "24h"},
        {"prompt_cache_options": {"mode": "explicit"}},
        {"verbosity": "low"},
        {"safety_identifier": "u"},
        {"top_logprobs": 0},
        {"tool_choice": "none"},
        {"modalities": ["text"]},
        {"stream": False, "stream_options": None},
    ],
)
def test_what_is_null_or_empty_is_not_there(body: dict[str, Any]) -> None:
    plain = sampling.of_chat({"model": "m", "messages": []}, "<end_of_turn>")
    assert sampling.of_chat({"model": "m", "messages": [], **body}, "<end_of_turn>") == plain


@pytest.mark.parametrize(
    ("types", "parse"),
    [
        (chat_params, lambda body: sampling.of_chat(body, "<end_of_turn>")),
        (completion_params, sampling.of_completion),
        (job_create_params, job_request.parse),
    ],
)
def test_every_parameter_of_the_newest_sdk_is_known(
    types: ModuleType, parse: Callable[[dict[str, Any]], object]
) -> None:
    name = "JobCreateParams" if types is job_create_params else "CompletionCreateParamsBase"
    for parameter in getattr(types, name).__annotations__:
        try:
            parse({**MINIMUM, parameter: {"no": "value of this parameter"}} if types is job_create_params else {
                parameter: {"no": "value of this parameter"}
            })  # fmt: skip
        except ApiError as exc:
            assert exc.code != "unknown_parameter" or "." in (exc.param or ""), parameter


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        (None, "messages"),
        ({}, "messages"),
        ([], "messages"),
        (["hi"], "messages[0]"),
        ([_USER, {"content": "a"}], "messages[1].role"),
        ([_USER, {"role": "narrator", "content": "a"}], "messages[1].role"),
        ([_USER, _USER, {"role": "user", "content": None}], "messages[2].content"),
        ([_USER, _USER, {"role": "user"}], "messages[2].content"),
        ([{"role": "system", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}],
            "messages[0].content[1]",
        ),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0]"),
        ([{**_USER, "weight": 1}], "messages[0].weight"),
    ],
)
def test_an_invalid_message_is_named_by_its_path(messages: object, path: str) -> None:
    with pytest.raises(BadLine) as caught:
        chat.parse(messages)
    assert caught.value.path == path


@pytest.mark.parametrize("message", [{"role": "assistant", "content": None}, {"role": "assistant"}])
def test_an_earlier_answer_may_be_null(message: dict[str, Any]) -> None:
    assert [one.text for one in chat.parse([_USER, message, _USER])] == ["a", "", "a"]


def test_an_answer_to_learn_must_not_be_null() -> None:
    line = jsonl([{"messages": [_USER, {"role": "assistant", "content": None}]}])
    with pytest.raises(BadLine, match="Message 2, from the assistant, is empty"):
        parse_line(line)


@pytest.mark.parametrize("name", ["suffix", "echo", "best_of", "logprobs", "prompt", "stop", "unheard_of"])
def test_null_in_a_completion_is_not_there(name: str) -> None:
    assert sampling.of_completion({"model": "m", name: None}) == sampling.of_completion({"model": "m"})


@pytest.mark.parametrize(
    "body",
    [
        *(
            {name: None}
            for name in ("validation_file", "suffix", "metadata", "method", "hyperparameters", "unheard_of")
        ),
        {"integrations": None},
        {"integrations": []},
        {"validation_file": ""},
        {"metadata": {}},
        {"metadata": {"a": None}},
        {"method": {}},
        {"method": {"type": None, "supervised": None, "dpo": None, "reinforcement": {}}},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": None, "batch_size": None}}}},
        {"hyperparameters": {"n_epochs": None}},
    ],
)
def test_null_in_a_job_is_not_there(body: dict[str, Any]) -> None:
    assert job_request.parse({**MINIMUM, "seed": 1, **body}) == job_request.parse({**MINIMUM, "seed": 1})


@pytest.mark.parametrize(
    "message",
    [
        {"name": None, "refusal": None, "tool_calls": None, "function_call": None, "audio": None, "weight": None},
        {"tool_calls": [], "function_call": {}, "name": ""},
    ],
)
def test_null_in_a_message_is_not_there(message: dict[str, Any]) -> None:
    plain = {"role": "assistant", "content": "b"}
    assert chat.parse([{**plain, **message}]) == chat.parse([plain])


@pytest.mark.parametrize("body", [{"web_search_options": {}}, {"functions": [{"name": "f"}]}])
def test_what_is_asked_for_is_not_ignored(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        sampling.of_chat({"model": "m", "messages": [], **body}, "<end_of_turn>")
    assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize("body", [{"function_call": {"name": "f"}}, {"audio": {"voice": "alloy"}}])
def test_what_cannot_be_done_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        sampling.of_chat({"model": "m", "messages": [], **body}, "<end_of_turn>")
    assert caught.value.code == "unsupported_parameter"


def test_beta_is_read_and_automatic() -> None:
    asked = [job_request.parse(body).beta for body in (_dpo(beta=0.5), _dpo(beta="auto"), _dpo(), MINIMUM)]
    assert asked == [0.5, 0.1, 0.1, None]
    assert job_request.parse(_dpo(n_epochs=2)).n_epochs == 2


def test_hyperparameters_of_the_engine_have_defaults_and_are_read() -> None:
    assert job_request.parse(MINIMUM).options == TrainingOptions()
    given = {"lora_rank": 8, "lora_alpha": 16, "warmup": 0.1, "schedule": "cosine", "early_stopping": 2}
    wanted = job_request.parse({**hyper(**given), "validation_file": "file-b"})
    assert wanted.options == TrainingOptions(8, 16.0, 0.1, "cosine", 2)
    assert wanted.names_adapter
    assert job_request.parse(hyper(lora_rank="auto", schedule="auto")).options == TrainingOptions()
