"""Failure classification: every error and finish reason in the ledger has one cause and a remedy."""

from __future__ import annotations

import inspect
import ssl
from decimal import Decimal
from pathlib import Path

import pytest

from core import errors, failures, message
from core.actor import LOCAL
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.engine.formats.base_config import UntrainableModel
from core.engine.serving.llama_errors import too_long
from core.engine.training import job_context
from core.engine.training.trainer.failure import describe as _describe
from core.engine.training.trainer.loop import LossDiverged
from core.errors import FabulaError, RateLimited
from core.failures import CAUSES, JOB_REMEDIES, REMEDIES
from core.file_storage import FolderStorage
from core.finetuning.job_views import UNKNOWN_AT_PROVIDER
from core.generation import retry_policy, run_budget
from core.generation.batch import batch_lifecycle, batch_results
from core.generation.concurrency import ConcurrencyControl, RunLimits
from core.generation.retry_policy import RequestRetryPolicy, RowAttempts, classify
from core.generation.run_store import RunContext
from core.message import msg, sentences, with_cause
from core.pricing import budget, custom_prices
from core.providers import Choice, Completion, Provider, Registry
from core.providers import errors as provider_errors
from core.providers.batches import BatchAnswer
from core.providers.connection_errors import no_version, plain_to_tls, proxy_refuses, unreachable
from core.providers.endpoint_setup import check_setup
from core.stories import error_explanation

_PROVIDER = Provider("fault", "compatible", "The test server", "http://127.0.0.1:9/v1", "sk-key")

STATUSES = [  # status, body, cause
    (400, {"error": {"message": "temperature must be at most 2"}}, "bad_request"),
    (400, {"error": {"message": "This model's maximum context length is 4096 tokens."}}, "too_long"),
    (400, {"error": {"message": "The response was filtered", "code": "content_filter"}}, "bad_request"),
    (400, {"error": {"message": "triggering Azure OpenAI's content management policy"}}, "content_filter"),
    (400, {"error": {"message": "Your request was rejected by our safety system."}}, "content_filter"),
    (400, {"error": {"message": "safety_identifier is not a valid parameter"}}, "bad_request"),
    (400, {"error": {"message": "Unsafe value for response_format"}}, "bad_request"),
    (400, {"error": {"message": "Billing address required for parameter foo"}}, "bad_request"),
    (400, {"error": {"message": "prompt is too long: 9000 tokens"}}, "too_long"),
    (400, {"error": {"message": "the model `gpt-3` does not exist"}}, "model_not_found"),
    (401, {"error": {"message": "Incorrect API key provided"}}, "bad_key"),
    (402, {"error": {"message": "Payment required"}}, "no_credit"),
    (403, {"error": {"message": "Country not supported"}}, "bad_key"),
    (404, {"error": {"message": "No such thing"}}, "setup"),
    (404, {"error": {"message": "gone", "code": "model_not_found"}}, "model_not_found"),
    (404, {"error": {"message": "模型 qwen 不存在"}}, "model_not_found"),
    (408, {"error": {"message": "Request timeout"}}, "server_error"),
    (409, {"error": {"message": "Conflict"}}, "server_error"),
    (422, {"error": {"message": "Input should be a valid string"}}, "bad_request"),
    (425, {"error": {"message": "Too early"}}, "server_error"),
    (429, {"error": {"message": "Rate limit reached for requests", "code": "rate_limit_exceeded"}}, "rate_limit"),
    (429, {"error": {"message": "The model refused; try later"}}, "rate_limit"),
    (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, "no_credit"),
    (429, {"error": {"message": "您的账户余额不足", "code": "1113"}}, "no_credit"),
    (500, {"error": {"message": "The engine stopped"}}, "server_error"),
    (502, "<html><title>Bad gateway</title></html>", "server_error"),
    (503, {"error": {"message": "Overloaded: content_filter is busy"}}, "server_error"),
    (504, {"error": {"message": "Gateway timeout"}}, "server_error"),
    (507, {"error": {"message": "The engine's disk is full"}}, "server_error"),
    (529, {"error": {"message": "Overloaded"}}, "server_error"),
    (307, "", "server_error"),
    (407, "", "setup"),
]


@pytest.mark.parametrize(("status", "body", "cause"), STATUSES)
def test_an_answer_of_a_provider_has_a_cause_live_and_stored(status: int, body: object, cause: str) -> None:
    error = provider_errors.from_status(status, body, {}, _PROVIDER, "/v1/chat/completions")
    assert failures.of_error(error).cause == cause
    assert failures.of_row(error.what).cause == cause
    assert failures.of_run(retry_policy.end_for_error(error).reason).cause == cause
    assert failures.of_run(msg("The provider refuses every request. {what}", what=error.what)).cause == cause
    assert failures.of_row(message.loads(message.dumps(error.what))).cause == cause  # as it is read back


def test_a_providers_words_are_told_apart_from_fabulas() -> None:
    error = provider_errors.from_status(400, {"error": {"message": "no (request 17)"}}, {}, _PROVIDER)
    assert failures.of_row(error.what) == failures.Failure("bad_request", "no (request 17)")
    assert failures.of_error(error).provider_message == "no (request 17)"


def _untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("self-signed certificate")
    error.verify_code, error.verify_message = 18, "self-signed certificate"
    return error


WITHOUT_AN_ANSWER = [
    (provider_errors.timed_out(_PROVIDER), "unreachable"),
    (provider_errors.unreadable(_PROVIDER), "unreadable"),
    (provider_errors.not_an_api_answer(_PROVIDER), "unreadable"),
    (provider_errors.stream_cut(_PROVIDER), "interrupted"),
    (provider_errors.stream_cut(_PROVIDER, "The server is overloaded"), "interrupted"),
    (unreachable(_PROVIDER, ConnectionRefusedError(), sent=False), "unreachable"),
    (unreachable(_PROVIDER, ConnectionResetError(), sent=True), "unreachable"),
    (unreachable(_PROVIDER, _untrusted(), sent=False), "setup"),
    (plain_to_tls(_PROVIDER), "setup"),
    (no_version(_PROVIDER, "Not found"), "setup"),
    (proxy_refuses(_PROVIDER, 407), "setup"),
    (proxy_refuses(_PROVIDER, 403), "setup"),
    (proxy_refuses(_PROVIDER, 502), "unreachable"),
    (errors.EngineMissing("The engine needs packages that are not installed: torch.", ""), "engine_missing"),
    (errors.Unavailable("The engine is not running.", "Start Fabula: it starts the engine too."), "unreachable"),
    (errors.StorageFull("The disk that holds Fabula's database is full.", "Free some space."), "storage"),
    (errors.DatabaseLost("The database cannot be reached.", "Check it."), "storage"),
    (errors.ModelNotFound("OpenAI no longer has ft:gpt:x: gpt was retired after 2026-01-01.", ""), "model_not_found"),
    (errors.ModelNotFound("OpenAI does not have x, and it has never been used here.", ""), "model_not_found"),
]


@pytest.mark.parametrize(("error", "cause"), WITHOUT_AN_ANSWER)
def test_trouble_on_the_way_has_a_cause_live_and_stored(error: FabulaError, cause: str) -> None:
    assert failures.of_error(error).cause == cause
    assert failures.of_run(retry_policy.end_for_error(error).reason).cause == cause


def test_a_provider_that_is_not_configured_is_a_matter_of_setup() -> None:
    with pytest.raises(errors.NotFound) as raised:
        Registry([]).provider("x")
    assert failures.of_error(raised.value).cause == "setup"
    assert failures.of_job(failures.with_job_cause(raised.value.what)).cause == "setup"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("api.example.com", "k"),
        ("ftp://api.example.com/v1", "k"),
        ("https://api.example.com/v1/chat/completions", "k"),
        ("https://", "k"),
        ("https://api.example.com/v1", "a b"),
        ("https://api.example.com/v1", "a\nb"),
        ("https://api.example.com/v1", "钥匙"),
    ],
)
def test_an_address_or_key_that_cannot_work_is_a_matter_of_setup(url: str, key: str) -> None:
    with pytest.raises(errors.Misconfigured) as raised:
        check_setup(Provider("fault", "compatible", "The test server", url, key))
    assert failures.of_error(raised.value).cause == "setup"
    assert failures.of_run(retry_policy.end_for_error(raised.value).reason).cause == "setup"


def test_every_class_of_error_has_a_cause() -> None:
    """Also if its sentence is unknown."""
    expected = {
        "FabulaError": "other", "NotFound": "other", "BadRecipe": "other", "BadFile": "bad_file",
        "BadTrainingFile": "bad_file", "StorageFull": "storage", "DatabaseLost": "storage", "ProviderError": "other",
        "Transient": "other",
        "RateLimited": "rate_limit", "Unavailable": "unreachable", "ServerError": "server_error",
        "Unreadable": "unreadable", "Refused": "bad_key", "Misconfigured": "setup", "WrongAddress": "setup",
        "BadRequest": "bad_request",
        "NotThere": "bad_request", "ModelNotFound": "model_not_found", "StreamCut": "interrupted", "Cancelled": "other",
        "EngineMissing": "engine_missing", "OverBudget": "shared_budget", "PromptTooLong": "too_long",
        "NotAllowed": "not_allowed", "SignedOut": "not_allowed", "RoleChanged": "not_allowed",
        "SignInRefused": "not_allowed", "BadSettings": "setup", "ProviderRemoved": "provider_removed",
        "ProviderChanged": "provider_changed", "NewerDatabase": "setup", "ChangedMeanwhile": "other",
    }  # fmt: skip
    classes = dict(inspect.getmembers(errors, lambda one: inspect.isclass(one) and issubclass(one, FabulaError)))
    assert {name: failures.of_error(kind("xyz")).cause for name, kind in classes.items()} == expected


ENDINGS = [  # a text, why it ended, the provider's message, cause; None: a finished story
    ("Once.", "stop", None, None),
    ("Once", "length", None, "token_limit"),
    ("", "length", None, "token_limit"),
    ("No.", "refusal", None, "refused"),
    ("", "content_filter", None, "content_filter"),
    ("Once", "content_filter", None, "content_filter"),
    ("", "stop", None, "empty_answer"),
    (" \n", "stop", None, "empty_answer"),
    ("", None, None, "empty_answer"),
    ("Once", None, None, "interrupted"),
    ("Once", "tool_calls", None, "interrupted"),
    ("Once", "error", None, "interrupted"),
    ("Once", "somebody_elses_word", None, "interrupted"),
    ("Once", "stop", "Rate limit reached in the middle", "interrupted"),
]


@pytest.mark.parametrize(("text", "finish_reason", "error", "cause"), ENDINGS)
def test_how_a_text_ended_has_a_cause(
    text: str, finish_reason: str | None, error: str | None, cause: str | None
) -> None:
    verdict = classify(Completion((Choice(text, finish_reason, error or ""),), "writer", 10, 5), 2048)
    assert (verdict.state == "done") == (cause is None)
    if cause is not None:
        assert failures.of_row(verdict.reason, verdict.finish_reason).cause == cause


def test_an_answer_without_a_text_is_empty() -> None:
    assert failures.of_row(classify(Completion((), "writer", 10, 5), 2048).reason).cause == "empty_answer"


EARLIER = [  # stored by earlier versions, without the code of a cause: finish reason, sentence, cause
    ("length", "It was longer than the 2,048 tokens allowed.", "token_limit"),
    ("content_filter", "It was held back by the content filter.", "content_filter"),
    ("refusal", "It does not want to.", "refused"),
    (None, "The test server could not use the request (400): maximum context length is 4096 tokens", "too_long"),
    (None, "The test server asks to slow down: Rate limit reached", "rate_limit"),
    (None, "This month's budget is used up: $0.28 of $0.30 spent or reserved.", "other"),
    (None, None, "other"),
    (None, "", "other"),
    (None, "An unknown error.", "other"),
]


@pytest.mark.parametrize(("finish_reason", "reason", "cause"), EARLIER)
def test_what_was_stored_earlier_has_a_cause(finish_reason: str | None, reason: str | None, cause: str) -> None:
    assert failures.of_row(reason, finish_reason).cause == cause


def _context() -> RunContext:
    recipe = Recipe("x", (Column("hero", ("a",)),), "{hero}", provider="openai", model="gpt")
    return RunContext("run-1", "set-1", "openai", "gpt", "live", LOCAL, recipe, None)


def test_every_end_of_a_run_has_a_cause(store: Store) -> None:
    arriving = RequestRetryPolicy(
        RunLimits(max_repeated_failures=1, max_row_failures=99, stall_s=60), ConcurrencyControl(8), 2048, now=0.0
    )
    arriving.on_error(RateLimited("The test server asks to slow down: Limit", "", 5_400.0), RowAttempts(), 1.0)
    assert arriving.end is not None
    assert failures.of_run(arriving.end.reason).cause == "rate_limit"
    assert (arriving.end.state, arriving.end.wait_s) == ("waiting", 5_400.0)

    stalled = RequestRetryPolicy(RunLimits(stall_s=60), ConcurrencyControl(8), 2048, now=0.0)
    stalled.cause = provider_errors.timed_out(_PROVIDER).what
    stalled.check_stalled(61.0, all_retried=True)
    assert stalled.end is not None and failures.of_run(stalled.end.reason).cause == "unreachable"

    with store.session() as session:
        own = run_budget.exhausted(session, _context(), Decimal(2), Decimal(0))
        unpriced = run_budget.unpriced(session, _context(), Decimal(2), None)
        budget.set_budget(store, LOCAL, "month", Decimal("0.01"))
    with store.session() as session:
        shared = run_budget.exhausted(session, _context(), None, None)
        unknown = run_budget.unpriced(session, _context(), None, None)
    assert [failures.of_run(one).cause for one in (own, unpriced, shared, unknown)] == [
        "budget", "unknown_price", "shared_budget", "unknown_price",
    ]  # fmt: skip


def test_every_failed_row_of_a_batch_has_a_cause() -> None:
    reader = batch_results.BatchResults(2048)
    for _ in range(3):  # as often as a row may come back without an answer
        unnamed = reader.read(BatchAnswer("key", None, None), lambda prompt, completion: None)
    lost = batch_results.unbilled("key", batch_lifecycle.UNREADABLE)
    line = batch_results.unbilled("key", failures.with_request_cause("maximum context length is 512 tokens"))
    assert [failures.of_row(one.result.reason).cause for one in (unnamed, lost, line)] == [
        "interrupted", "interrupted", "too_long",
    ]  # fmt: skip
    assert failures.of_row(line.result.reason).provider_message == "maximum context length is 512 tokens"


def _refused(status: int, words: str) -> str:
    return provider_errors.from_status(status, {"error": {"message": words}}, {}, _PROVIDER, "/v1/files").what


JOBS = [  # the error of a job as its provider or Fabula states it, cause
    (sentences(*_describe(MemoryError())), "out_of_memory"),
    (sentences(*_describe(OSError(28, "No space left on device"))), "storage"),
    (sentences(*_describe(LossDiverged(msg("the loss of step 12 is not a number")))), "diverged"),
    (sentences(*_describe(UntrainableModel(msg("it has no tokenizer")))), "model_not_found"),
    (job_context.describe_error(RuntimeError("boom")).message, "server_error"),
    (job_context.describe_error(OSError(28, "No space left on device")).message, "storage"),
    ("CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory"),
    ("The loss is infinite.", "diverged"),
    ("Line 3: Its completion is empty.", "bad_file"),
    ("invalid_training_file", "bad_file"),
    (_refused(400, "Line 3: It is not an object in braces."), "bad_file"),
    (errors.BadTrainingFile("The data set has no finished rows to train on.").what, "bad_file"),
    (_refused(400, too_long(512, 900).message), "too_long"),
    (_refused(404, "The model 'x' does not exist."), "model_not_found"),
    ("The model is not available for fine-tuning.", "model_not_found"),
    ("The job failed due to a violation of our usage policies.", "content_filter"),
    ("The training file was blocked by moderation.", "content_filter"),
    ("Exceeded billing hard limit", "no_credit"),
    (_refused(429, "Your credit balance is too low."), "no_credit"),
    (_refused(401, "Incorrect API key"), "bad_key"),
    (_refused(400, "temperature must be at most 2"), "bad_request"),
    (unreachable(_PROVIDER, ConnectionRefusedError(), sent=False).what, "unreachable"),
    ("The job failed due to an internal error.", "server_error"),
    (errors.EngineMissing("The engine needs packages that are not installed: torch.").what, "engine_missing"),
    (UNKNOWN_AT_PROVIDER, "job_gone"),
    ("The provider gives no reason.", "other"),
    ("", "other"),
]


@pytest.mark.parametrize(("error", "cause"), JOBS)
def test_a_failed_training_has_a_cause(error: str, cause: str) -> None:
    stored = message.loads(message.dumps(failures.with_job_cause(error)))
    assert failures.of_job(stored).cause == cause and stored == error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (None, "other"),
        ("The trainer ended 3 times: memory ran out: use a smaller batch_size.", "out_of_memory"),
        ("Training diverged: the loss of step 12 is not a number.", "diverged"),
        ("The provider no longer has this job.", "other"),
    ],
)
def test_a_training_that_an_earlier_version_stored_has_a_cause(error: str | None, cause: str) -> None:
    assert failures.of_job(error).cause == cause


@pytest.mark.parametrize("code", ["", "a_code_of_a_later_version", "OTHER"])
def test_an_unknown_code_counts_as_another_reason(code: str) -> None:
    assert failures.of_row(with_cause(msg("It broke."), code)) == failures.Failure("other", raw_text="It broke.")


def test_what_a_story_is_told_in_full_keeps_its_cause(store: Store, home: Path) -> None:
    for words, cause in (
        ("maximum context length is 512", "too_long"),
        ("content management policy", "content_filter"),
    ):
        error = provider_errors.from_status(400, {"error": {"message": words}}, {}, _PROVIDER)
        explained = error_explanation.explain(
            store, custom_prices.book(store, FolderStorage(home)), _PROVIDER, "writer", error
        )
        assert failures.of_error(explained).cause == cause and explained is not error


def test_every_cause_has_a_remedy() -> None:
    assert set(REMEDIES) == set(JOB_REMEDIES) == set(CAUSES)
    assert all(REMEDIES.values()) and all(JOB_REMEDIES.values())
    of_jobs = {"smaller_batch", "lower_rate", "check_file"}
    of_texts = {"raise_limit", "lower_temperature", "open_recipe", "raise_budget"}
    assert not of_jobs & {remedy for found in REMEDIES.values() for remedy in found}
    assert not of_texts & {remedy for found in JOB_REMEDIES.values() for remedy in found}
