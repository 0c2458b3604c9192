"""The validating_files phase: tokenises one job's files at a time and checks that each example fits the context."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx2

from core.engine import finetune_format
from core.engine.api.errors import ApiError
from core.engine.api.files import SOURCES
from core.engine.chat_messages import BadLine
from core.engine.event_log import add_event
from core.engine.finetune_format import Conversation, Preference, PromptCompletion
from core.engine.formats import tokens
from core.engine.formats.tokens import Encoded, SegmentedExample
from core.engine.serving import chat
from core.engine.serving.llama import BaseModel
from core.engine.serving.llama_errors import raise_the_limit
from core.engine.store import Job
from core.engine.training.job_cleanup import delete_large_files
from core.engine.training.job_context import EngineJobContext, JobCancelled, JobFailed, describe_error
from core.message import msg, sentences, with_cause

# A llama.cpp server that has crashed or is loading is available again within seconds; after that, retrying does not
# help.
_PAUSES_S = (1.0, 3.0, 9.0)
_MAX_LISTED = 10  # maximum number of overlong lines listed in one message
_CANCEL_CHECK_S = 0.5  # how often cancellation is checked


class Validator:
    """Moves jobs from validating_files to queued or failed."""

    def __init__(self, context: EngineJobContext, stopping: threading.Event) -> None:
        self._context, self._stopping = context, stopping
        self._retries: dict[str, int] = {}

    def step(self) -> bool:
        """Validate the oldest waiting job; return whether there was one."""
        job = self._context.oldest("validating_files")
        if job is None:
            return False
        try:
            self._validate(job)
        except JobCancelled:
            pass
        except JobFailed as failure:
            self._context.fail(job, failure)
            self._delete_sources(job)
        except sqlite3.Error:
            raise  # not the job's fault, so wait and try again
        except Exception as exc:
            if not (_is_transient(exc) and self._retry(job)):
                self._context.fail(job, describe_error(exc))
                self._delete_sources(job)
        else:
            self._retries.pop(job.id, None)
        if self._context.status(job) == "cancelled":  # `JobCleanup` may have been here before the last file was written
            delete_large_files(self._context.folder(job))
        return True

    def _retry(self, job: Job) -> bool:
        """Wait before a retry; return False after the last one."""
        retries = self._retries.pop(job.id, 0)
        if retries == len(_PAUSES_S):
            return False
        self._retries[job.id] = retries + 1
        add_event(self._context.store, job.id, msg("The tokenizer failed; its files are loaded again."), level="warn")
        self._stopping.wait(_PAUSES_S[retries])
        return True

    def _validate(self, job: Job) -> None:
        context = self._context
        base = context.models.base(job.base)
        sources = (
            ("training_file", job.training_file, "train.npz"),
            ("validation_file", job.validation_file, "valid.npz"),
        )
        n_tokens: dict[str, int] = {}
        with context.pool.tokenizer(base) as tokenize:
            for param, file_id, target in sources:
                if file_id is not None:
                    source, path = self._source(job, param, file_id), context.folder(job) / target
                    n_tokens[param] = tokenise_file(
                        source, path, base, tokenize, lambda: self._should_continue(job), param
                    )
        queued = {"status": "queued", "epoch_tokens": n_tokens["training_file"]}
        with context.store.transaction():
            if context.store.update(Job, job.id, where="status = 'validating_files'", **queued):
                add_event(context.store, job.id, msg("Files validated, moving job to queued state"))
        self._delete_sources(job)

    def _source(self, job: Job, param: str, file_id: str) -> Path:
        """Path of the job's own copy of a file, or of the uploaded file if an older engine version created the job
        without copies.
        """
        copy = self._context.source(job, param)
        return copy if copy.exists() else self._context.files.path(file_id)

    def _delete_sources(self, job: Job) -> None:
        for param in SOURCES:
            self._context.source(job, param).unlink(missing_ok=True)

    def _should_continue(self, job: Job) -> bool:
        return not self._stopping.is_set() and self._context.status(job) == "validating_files"


def _is_transient(exc: Exception) -> bool:
    """Whether the error comes from a llama.cpp server; if so, the pool restarts the server."""
    return isinstance(exc, httpx2.HTTPError) or (isinstance(exc, ApiError) and exc.status == 503)


def tokenise_file(
    source: Path,
    target: Path,
    base: BaseModel,
    tokenize: Callable[[str], list[int]],
    should_continue: Callable[[], bool],
    param: str,
) -> int:
    """Tokenise the training file `source` into `target`; return the number of tokens.

    Raises:
        JobFailed: lines are longer than the context (the message lists them), or the file was deleted or changed.
        JobCancelled: `should_continue()` became false.
    """
    too_long: list[str] = []

    def encoded() -> Iterator[Encoded]:
        checked_at = time.monotonic()
        for number, example in finetune_format.read_examples(source):
            if time.monotonic() - checked_at > _CANCEL_CHECK_S:
                checked_at = time.monotonic()
                if not should_continue():
                    raise JobCancelled
            texts = (example.preferred, example.rejected) if isinstance(example, Preference) else (example,)
            found = [
                tokens.encode(
                    _segmented(text, base, number), tokenize, base.card.bos, base.card.eos, base.card.adds_space
                )
                for text in texts
            ]
            if (longest := max(len(one.tokens) for one in found)) > base.context:
                too_long.append(msg("Line {number} has {tokens} tokens.", number=number, tokens=longest))
            yield from found

    try:
        total = tokens.save(target, encoded())
    except FileNotFoundError as exc:
        raise JobFailed(
            with_cause(msg("The file of '{param}' was deleted before it was read.", param=param), "bad_file"),
            "file_not_found",
            param,
        ) from exc
    except BadLine as exc:
        raise JobFailed(
            with_cause(
                msg("The file of '{param}' has a broken line. {sentence}", param=param, sentence=exc.sentence),
                "bad_file",
            ),
            "invalid_training_file",
            param,
        ) from exc
    if too_long:
        target.unlink()
        raise _too_long_failure(too_long, base, param)
    return total


def _too_long_failure(lines: Sequence[str], base: BaseModel, param: str) -> JobFailed:
    """The failure for a file with examples longer than the model's context; `lines` has one sentence per example."""
    listed = list(lines[:_MAX_LISTED])
    if more := len(lines) - len(listed):
        listed.append(msg("{more} more lines are too long.", more=more))
    message: str = msg(
        "An example can have {context} tokens at most. {too_long} Shorten or remove them.",
        context=base.context,
        too_long=sentences(*listed),
    )
    if base.is_limited:
        message = sentences(message, raise_the_limit(base.card.context_length))
    return JobFailed(with_cause(message, "too_long"), "invalid_training_file", param)


def _segmented(example: PromptCompletion | Conversation, base: BaseModel, number: int) -> SegmentedExample:
    """Call `as_example`; if the chat template refuses the conversation, add the line number to the error."""
    try:
        return as_example(example, base)
    except BadLine as exc:
        raise BadLine(exc.kind, msg("Line {line}: {sentence}", line=number, sentence=exc.sentence)) from exc


def as_example(example: PromptCompletion | Conversation, base: BaseModel) -> SegmentedExample:
    """Split a line of a training file into trained and untrained segments.

    Raises:
        BadLine: the model's chat template refuses the conversation.
    """
    if isinstance(example, PromptCompletion):
        return SegmentedExample(((example.prompt, False), (example.completion, True)), eos=True)
    chat_format = chat.format_for(base.card)
    assert chat_format is not None, "checked when the job was created"
    return SegmentedExample(chat_format.segments(example.messages, example.tools), eos=False)
