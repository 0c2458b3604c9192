"""How a data set is written for training: format, separator, stop, system text, and its token count."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Final, Literal

import streamlit as st

from core.datasets import conversation_rows, datasets, export, jsonl, prompt_datasets, versions
from core.datasets.datasets import DatasetSummary
from core.datasets.importers import table_reader
from core.datasets.versions import Version
from core.errors import FabulaError
from core.finetuning import preference_training
from core.finetuning.job_cost import JobEstimate
from core.finetuning.job_form import MAX_MARKER_LENGTH, FileFormat
from core.generation import run_progress
from core.pricing import tokens
from core.pricing.tokens import TokenCount
from core.providers import ModelInfo
from core.providers.registry import ENGINE
from pages.ui import cache, state
from pages.ui.background import BackgroundTask, shared_task
from pages.ui.cache import shared
from pages.ui.components import cards
from pages.ui.components.fields import text_field
from pages.ui.components.money import local_price
from pages.ui.i18n import _, about, as_markdown, duration, mark, n_, usd
from pages.ui.sign_in import current_actor
from pages.ui.training import cached_training

_COMPLETION: Final = "completion"
_CHAT: Final = "chat"
_FORMATS: dict[FileFormat, str] = {_COMPLETION: mark("Prompt and completion"), _CHAT: mark("Chat")}
_WILL = ("add_separator", "add_space", "add_stop", "roles", "system", "conversations")
_SYSTEM_TEXT_HEIGHT = 100  # px
_SHOWN_START, _SHOWN_END = 40, 24  # characters of a story

_SHOWN_LINES = 2


def rows_of(chosen: DatasetSummary, version: Version | None) -> int:
    """Number of training rows: those of a version, or the finished rows that are not held out."""
    if version is not None:
        return version.n_train
    found = parts(chosen.id)
    return found.get(None, 0) + found.get("train", 0)


def marks(page: str, chosen: DatasetSummary, version: Version | None, only: FileFormat | None = None) -> TrainingFormat:
    """Format, separator and stop; the fields start with the proposal for these rows.

    `only`: the only format that the model accepts.
    """
    if conversation_rows.holds(chosen.columns):
        return TrainingFormat(file_format="chat")
    with st.popover(_("More"), icon=":material/tune:"):
        key = f"{page}_format_{chosen.id}"
        state.set_default(key, _CHAT if chosen.source in (table_reader.CHAT, prompt_datasets.SOURCE) else _COMPLETION)
        chat = only or st.segmented_control(
            _("Format of the file"),
            list(_FORMATS),
            required=True,
            format_func=lambda one: _(_FORMATS[one]),
            key=key,
        )
        if chat == _CHAT:
            _system_text(page, chosen.id)
            return TrainingFormat(file_format="chat")
        proposed = _proposed(chosen, version)
        place, start = _place(chosen, version), proposed or TrainingFormat()
        separator = _mark(_("Separator: ends every prompt"), f"{page}_separator_{place}", start.separator)
        stop = _mark(_("Stop: ends every completion"), f"{page}_stop_{place}", start.stop)
        st.caption(_("\\n is a line break. Leave a field empty to use the suggestion."))
    return TrainingFormat(
        None if proposed and separator == proposed.separator else separator,
        None if proposed and stop == proposed.stop else stop,
    )


def carry(chosen: DatasetSummary, version: Version | None, source: str, target: str) -> None:
    """Copy the choices from one page to another."""
    place = _place(chosen, version)
    for name in (f"format_{chosen.id}", f"separator_{place}", f"stop_{place}"):
        if (value := state.get(f"{source}_{name}")) is not None:
            state.set_value(f"{target}_{name}", value)


def put(page: str, chosen: DatasetSummary, version: Version | None, marks: TrainingFormat) -> None:
    """Set the marks in the fields of a page, before they are rendered or in a callback. None keeps the proposal."""
    state.set_value(f"{page}_format_{chosen.id}", _CHAT if marks.file_format == "chat" else _COMPLETION)
    for name, value in (("separator", marks.separator), ("stop", marks.stop)):
        if value is not None:
            state.set_value(f"{page}_{name}_{_place(chosen, version)}", value.replace("\n", "\\n"))


def report(preview: TrainingFilePreview) -> None:
    """Render checks and changes with reasons, then two lines of the file with separator and stop visible."""
    found = [finding for finding in preview.plan.report if finding.kind not in _WILL]
    done = [finding for finding in preview.plan.report if finding.kind in _WILL]
    for icon, findings in ((":material/check:", found), (":material/edit:", done)):
        for finding in findings:
            why = f" :gray[{as_markdown(finding.why)}]" if finding.why else ""
            st.markdown(f"{icon} {as_markdown(str(finding))}{why}")
    if preview.plan.conversations:
        st.caption(_("The model reads each row like this: the whole conversation."))
    elif preview.plan.file_format == "chat":
        st.caption(_("The model reads each row like this: the prompt as the user, the text as the answer."))
    else:
        st.caption(_("The model reads each row like this: the prompt, its separator, the text, its stop."))
    for line in preview.lines:
        st.code(_shortened(line), language=None, wrap_lines=True)


def _proposed(chosen: DatasetSummary, version: Version | None) -> TrainingFormat | None:
    """The available marks; None if no common one is available, so that they must be entered."""
    try:
        version_id = None if version is None else version.id
        preview = written(chosen.id, version_id, rows_of(chosen, version), TrainingFormat()).get()
    except FabulaError:
        return None
    return TrainingFormat(preview.plan.separator, preview.plan.stop) if preview is not None else None


def _place(chosen: DatasetSummary, version: Version | None) -> str:
    return f"{chosen.id}_{chosen.done}" if version is None else f"{chosen.id}_{version.id}"


def _mark(title: str, key: str, proposed: str | None) -> str | None:
    start, before = (proposed or "").replace("\n", "\\n"), f"{key}_proposed"
    if state.get(key) is None or state.get(key) == state.get(before):  # nothing typed here: follow the proposal
        state.set_value(key, start)
    state.set_value(before, start)
    shown = text_field(title, key, MAX_MARKER_LENGTH)
    return shown.replace("\\n", "\n") or None


def _shortened(line: str) -> str:
    """A line of the file with the middle of its story shortened, so that both ends are visible."""
    row = json.loads(line)
    holder, name = (row["messages"][-1], "content") if "messages" in row else (row, "completion")
    text = holder[name]
    if len(text) > _SHOWN_START + _SHOWN_END:
        holder[name] = f"{text[:_SHOWN_START]} … {text[-_SHOWN_END:]}"
    return json.dumps(row, ensure_ascii=False)


def _system_text(page: str, dataset_id: str) -> None:
    """Render the text area with the stored text, initially the recipe's system text."""
    key, stored = f"{page}_system_{dataset_id}", datasets.system_message(cache.store(), dataset_id)
    if state.get(key) is None:
        state.set_value(key, stored)
    st.text_area(
        _("System text (optional): begins every conversation of the file"),
        height=_SYSTEM_TEXT_HEIGHT,
        key=key,
        on_change=_keep_system_text,
        args=(key, dataset_id),
        help=_("Use the same one when you call the model."),
    )


def _keep_system_text(key: str, dataset_id: str) -> None:
    with cards.keep_errors():
        datasets.set_system_message(cache.store(), current_actor(), dataset_id, str(state.get(key) or ""))


@dataclass(frozen=True, slots=True)
class TrainingFormat:
    """How a data set is written for training: format, end of prompts, end of completions (None means as proposed), and
    the training method.
    """

    separator: str | None = None
    stop: str | None = None
    file_format: FileFormat = "completion"
    method: Literal["supervised", "dpo"] = "supervised"


@dataclass(frozen=True, slots=True)
class TrainingFilePreview:
    """How rows are written for training, and the first lines of that file."""

    plan: jsonl.Plan
    lines: tuple[str, ...]


@shared_task(
    max_entries=16,
    key=lambda dataset_id, version_id, rows, marks: (dataset_id, version_id, marks),
    version=lambda dataset_id, version_id, rows, marks: datasets.fingerprint(cache.store(), dataset_id, version_id),
)
def written(
    dataset_id: str, version_id: str | None, rows: int, marks: TrainingFormat
) -> BackgroundTask[TrainingFilePreview]:
    """How a data set or version is written as a file; recomputed when a row is added, removed or edited."""
    chosen = export.Selection(cache.store(), dataset_id, version_id)

    def look(row_seen: Callable[[], None]) -> TrainingFilePreview:
        plan = export.plan(chosen, marks.file_format, separator=marks.separator, stop=marks.stop, on_example=row_seen)
        return TrainingFilePreview(plan, tuple(islice(plan.lines(chosen.examples()), _SHOWN_LINES)))

    return BackgroundTask(look, rows)


def tokens_of(
    dataset_id: str, version_id: str | None, rows: int, marks: TrainingFormat, model: ModelInfo
) -> BackgroundTask[tokens.TokenCount]:
    """Tokens of one epoch of this training file for `model`, counted by its own tokenizer if the engine is running.

    While a run adds rows, the nearest vocabulary is used instead: each new row would cost the engine 200 requests.
    """
    engine_is_up = model.provider == ENGINE and cache.status().engine.state == "up"
    own_tokenizer = engine_is_up and not _grows(dataset_id, version_id)
    return _tokens_of(dataset_id, version_id, rows, marks, model.provider, model.id, own_tokenizer)


def _grows(dataset_id: str, version_id: str | None) -> bool:
    """True while a run adds rows. A version does not change."""
    if version_id is not None:
        return False
    _summary, run = cache.run_of(dataset_id)
    return run is not None and run.state in run_progress.ACTIVE


@shared_task(
    max_entries=64,
    key=lambda dataset_id, version_id, rows, *rest: (dataset_id, version_id, *rest),
    version=lambda dataset_id, version_id, *rest: datasets.fingerprint(cache.store(), dataset_id, version_id),
)
def _tokens_of(
    dataset_id: str,
    version_id: str | None,
    rows: int,
    marks: TrainingFormat,
    provider: str,
    model: str,
    own_tokenizer: bool,
) -> BackgroundTask[tokens.TokenCount]:
    chosen = export.Selection(cache.store(), dataset_id, version_id)
    tokenizer_client = cache.quick(provider) if own_tokenizer else None

    def count(row_seen: Callable[[], None]) -> tokens.TokenCount:
        ask = None if tokenizer_client is None else partial(tokenizer_client.count_tokens, model)
        if marks.method == "dpo":  # the model reads each prompt with both answers
            pairs = preference_training.plan(chosen, marks.file_format, marks.separator, marks.stop)
            return export.count_tokens(pairs, export.ProgressExamples(chosen.preferences(), row_seen), model, ask)
        plan = export.plan(chosen, marks.file_format, separator=marks.separator, stop=marks.stop)
        return export.count_tokens(plan, export.ProgressExamples(chosen.examples(), row_seen), model, ask)

    return BackgroundTask(count, rows, asks=own_tokenizer, provisional=lambda counted: counted.unanswered)


@shared(max_entries=64, key=lambda dataset_id: (dataset_id, datasets.fingerprint(cache.store(), dataset_id)))
def parts(dataset_id: str) -> Mapping[str | None, int]:
    """Number of finished rows of a data set by split."""
    return datasets.split_counts(cache.store(), dataset_id)


def version_list(dataset_id: str) -> list[versions.Version]:
    """Versions of a data set, newest first."""
    return versions.list_versions(cache.store(), dataset_id)


def training_facts(model: ModelInfo, tokens: TokenCount | None, epochs: int) -> tuple[str, ...]:
    """Tokens, cost, time and last day, as short texts; `tokens`: per epoch, None while unknown."""
    guess = cached_training.estimate(model, tokens.tokens if tokens is not None else 0, epochs)
    return (
        _training_tokens(tokens, epochs),
        local_price(guess.seconds) if guess.local else _training_price(tokens, guess.cost_usd),
        _training_time(guess) if tokens is not None else "",
        _("training can be started until {day}").format(day=guess.train_until) if guess.train_until else "",
    )


def _training_price(tokens: TokenCount | None, cost: Decimal | None) -> str:
    return _("price: {price}").format(price=usd(None if tokens is None else cost))


def _training_time(guess: JobEstimate) -> str:
    """The duration, and whether it is only a rough estimate."""
    if guess.seconds is None:
        return _("time: known after the first job")
    words = _("time: roughly {time}") if guess.rough else _("time: {time}")
    return words.format(time=duration(guess.seconds))


def _training_tokens(tokens: TokenCount | None, epochs: int) -> str:
    if tokens is None:
        return _("counting tokens")
    total = tokens.tokens * epochs
    if tokens.exact:
        return n_("{n} token", "{n} tokens", total)
    return _("about {tokens} tokens").format(tokens=about(total))
