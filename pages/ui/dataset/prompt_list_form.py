"""A list of prompts from a file: what was recognised, the rows that can't be asked, the run's settings and its cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from core.datasets import prompt_datasets
from core.datasets.datasets import MAX_NAME
from core.datasets.importers import prompt_list, table_reader
from core.datasets.importers.prompt_list import ListFormat, PromptList
from core.datasets.recipe import Recipe
from core.errors import BadFile, BadRecipe, FabulaError
from core.generation import runs
from core.generation.run_progress import Mode
from core.message import msg
from core.pricing import tokens
from pages.ui import cache, state, visible
from pages.ui.components import cards, models, views
from pages.ui.components.fields import number_field, text_field
from pages.ui.dataset import dataset_picker, importing, preview_card, run_settings
from pages.ui.dataset.run_settings import RunSettings
from pages.ui.i18n import _, listed, mark, n_, pair, plain
from pages.ui.sign_in import current_actor

_PAGE = "dataset_prompts"  # prefix of the widget keys
_SHOWN_ROWS = 5
_MAX_ANSWERS = 1_000
_KINDS = {
    "prompts": mark("prompts"),
    "conversations": mark("conversations"),
    "training": mark("training examples (their answers are dropped)"),
}
_DEFAULTS: dict[str, Any] = {
    "answers": 1, "system": "", "temperature": 1.0, "top_p": 1.0, "max_tokens": 2048, "seed": None, "stop": "",
    "response_format": "", "endpoint": "auto",
}  # fmt: skip


@dataclass
class ReadList:
    """The list that was read last, so that it is not read again on every click.

    Attributes:
        key: the upload, how it was read, and its template.
        result: the list, or why there is none.
        tokens: tokens of all its prompts, by encoding.
        proposed: the upload whose settings were proposed last.
        filled: the fields that they filled.
    """

    key: str = ""
    result: PromptList | FabulaError | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    proposed: str = ""
    filled: frozenset[str] = frozenset()


def show() -> None:
    """Render the whole section."""
    left, right = st.columns([3, 2], gap="medium")
    found = None
    with left:
        with st.container(border=True), cards.show_errors():
            found = _file()
        recipe, problem = _settings(found)
    with right:
        if found is None:
            with cards.empty(_("Choose a file with prompts or conversations."), icon=":material/list_alt:"):
                st.caption(_("A model answers each of them; the answers become a data set."))
            return
        _example_card(recipe, found)
        _generate_card(recipe, found, problem)
        preview_card.show(recipe, found.prompts, possible=problem is None)


def _key(name: str) -> str:
    return f"{_PAGE}_{name}"


def _file() -> PromptList | None:
    """Render the upload and what was found in it; None while there is no list."""
    file = st.file_uploader(
        _("Prompts or conversations: CSV, Excel, Parquet, JSON or JSONL"),
        type=importing.FILE_TYPES,
        key=_key("file"),
        max_upload_size=importing.MAX_FILE_MB,
    )
    if file is None:
        st.caption(
            _(
                "A table with a column of prompts, or with any columns and a template; OpenAI messages, a batch file, "
                "stored chat completions, or a training file, whose prompts are answered again."
            )
        )
        return None
    try:
        imported = importing.read_file(_PAGE, file, as_table=True)
    except BadFile:
        importing.read_otherwise(_PAGE, file, None)
        raise
    importing.read_otherwise(_PAGE, file, imported)
    imported = _with_first_line(file, imported)
    found = _read_list(file, imported, _format(file, imported))
    _propose(file, found)
    _findings(found, imported)
    return found


def _with_first_line(file: UploadedFile, imported: table_reader.Imported) -> table_reader.Imported:
    """Render the choice whether the first line of a file with one column is a prompt. Returns the file read so."""
    if not prompt_list.may_lack_header(imported):
        return imported
    first = str(imported.frame.columns[0])
    key = importing.file_key(_PAGE, "first_line", file)
    state.set_default(key, prompt_list.looks_like_prompt(first))
    is_prompt = st.checkbox(
        _("The first line is a prompt: {text}").format(text=plain(views.shortened(first, 60))), key=key
    )
    return prompt_list.with_first_line(imported) if is_prompt else imported


def _format(file: UploadedFile, imported: table_reader.Imported) -> ListFormat:
    """Render what was recognised, and the template of a table."""
    how = prompt_list.recognise(imported)
    st.markdown(_("Recognised: {form}").format(form=f"**{_(_KINDS[how.kind])}**"))
    if how.conversation is not None:
        return how
    key = importing.file_key(_PAGE, f"template_{imported.sheet or ''}", file)
    state.set_default(key, how.template)
    template = st.text_area(_("Template: the prompt, with {column} where a value goes"), height=90, key=key)
    columns = listed(f"`{{{plain(str(column))}}}`" for column in imported.frame.columns)
    st.caption(_("Columns of the file: {columns}").format(columns=columns))
    return replace(how, template=str(template or ""))


def _read_list(file: UploadedFile, imported: table_reader.Imported, how: ListFormat) -> PromptList:
    """The list; read once per upload, import option and template.

    Raises:
        BadFile, BadRecipe: there is no prompt, or the template is not valid.
    """
    kept = state.get_or_create("prompts", ReadList)
    key = f"{file.file_id} {imported.encoding} {imported.sheet} {len(imported.frame)} {how}"
    if kept.key != key:
        with st.spinner(_("Reading the file"), show_time=True):
            try:
                kept.result = prompt_list.build(imported, how)
            except (BadFile, BadRecipe) as problem:
                kept.result = problem
        kept.key, kept.tokens = key, {}
    if isinstance(kept.result, FabulaError):
        raise kept.result.with_traceback(None)
    assert kept.result is not None
    return kept.result


def _propose(file: UploadedFile, found: PromptList) -> None:
    """Fill the form with the system text and the parameters of a new file, and reset those of the file before."""
    kept = state.get_or_create("prompts", ReadList)
    if kept.proposed == file.file_id:
        return
    kept.proposed = file.file_id
    state.set_value(_key("name"), PurePath(file.name).stem[:MAX_NAME])
    values = {**({"system": found.system} if found.system else {}), **_proposals(found.parameters)}
    for name in kept.filled | values.keys():
        state.set_value(_key(name), values.get(name, _DEFAULTS[name]))
    kept.filled = frozenset(values)
    for info in visible.models().found:
        if info.id == found.parameters.get("model"):
            state.set_value(_key("model"), f"{info.provider}/{info.id}")


def _proposals(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The file's parameters as values of the form's fields; those that no field accepts are left out."""
    values: dict[str, Any] = {}
    for name, low, high in (("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0), ("max_tokens", 1, 1_000_000)):
        value = parameters.get(name)
        if isinstance(value, int | float) and low <= value <= high:
            values[name] = type(low)(value)
    if isinstance(parameters.get("seed"), int):
        values["seed"] = parameters["seed"]
    stop = parameters.get("stop")
    marks = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    if marks and all(isinstance(one, str) for one in marks):
        values["stop"] = "\n".join(json.dumps(one, ensure_ascii=False)[1:-1] for one in marks)
    if isinstance(parameters.get("response_format"), dict):
        values["response_format"] = json.dumps(parameters["response_format"], ensure_ascii=False)
    return values


def _findings(found: PromptList, imported: table_reader.Imported) -> None:
    """Render the counts, the rows that can't be asked, and the first prompts."""
    duplicates = n_("{n} duplicate, asked once", "{n} duplicates, asked once", found.duplicates)
    answers = n_("{n} answer dropped", "{n} answers dropped", found.answers)
    with_tools = sum(bool(one.tools) for one in found.prompts)
    views.facts(
        (
            n_("{n} prompt", "{n} prompts", len(found.prompts)),
            duplicates if found.duplicates else "",
            answers if found.answers else "",
            _("each row has its own system text") if len(found.columns) > 1 else "",
            n_("{n} with tools, which are sent along", "{n} with tools, which are sent along", with_tools)
            if with_tools
            else "",
        )
    )
    importing.cut_short(imported)
    if found.left_out:
        st.warning(
            n_(
                "{n} row can't be asked and is left out. The others are below.",
                "{n} rows can't be asked and are left out. The others are below.",
                found.left_out,
            ),
            icon=":material/report:",
        )
        importing.problem_list(_("Rows left out, and why"), found.problems)
    if found.notes:
        importing.problem_list(n_("{n} note", "{n} notes", len(found.notes)), found.notes)
    rows = [{name: views.shortened(cell) for name, cell in one.values.items()} for one in found.prompts[:_SHOWN_ROWS]]
    st.dataframe(rows, hide_index=True, row_height=36, alt=_("The first prompts of the file"))


def _settings(found: PromptList | None) -> tuple[Recipe, FabulaError | None]:
    """Render the model and the parameters. Returns the recipe, and why it can't be run."""
    for name, value in _DEFAULTS.items():
        state.set_default(_key(name), value)
    with st.container(border=True):
        row, purpose = st.container(horizontal=True, vertical_alignment="bottom"), st.container()
        with row:
            model = models.picker(
                _("Answered by"), _key("model"), prefer=models.storyteller(), width=320, purpose_in=purpose
            )
            answers = number_field(
                _("Answers to each prompt"), _key("answers"), 1, _MAX_ANSWERS, width=210, persist_state="session"
            )
            more = st.popover(_("More"), icon=":material/tune:", key=_key("more"), on_change="rerun")
        system = st.text_area(_("System text"), height=90, key=_key("system"), persist_state="session")
        if more.open:
            with more:
                _more_fields()
    recipe = Recipe(
        name=str(state.get(_key("name")) or _("List of prompts")),
        columns=(),
        template="",
        system=str(system or ""),
        repeats=answers,
        provider=model.provider if model else "",
        model=model.id if model else "",
        temperature=float(state.get(_key("temperature"))),
        top_p=float(state.get(_key("top_p"))),
        max_tokens=int(state.get(_key("max_tokens"))),
        seed=state.get(_key("seed")),
        endpoint=state.get(_key("endpoint")),
        stop=tuple(_unescaped(line) for line in str(state.get(_key("stop")) or "").splitlines() if line),
        response_format=str(state.get(_key("response_format")) or "").strip(),
    )
    if found is not None:
        recipe = prompt_datasets.with_list(recipe, found, _tokens(found, recipe.model))
    return recipe, _problem(recipe)


def _more_fields() -> None:
    """The less frequently used fields, rendered only while the popover is open."""
    formats = {"auto": _("Automatic"), "chat": _("Chat"), "completion": _("Completion")}
    text_field(_("Name of the data set"), _key("name"), MAX_NAME, persist_state="session")
    st.slider(_("Temperature"), 0.0, 2.0, step=0.05, key=_key("temperature"), persist_state="session")
    st.slider(_("Top p"), 0.0, 1.0, step=0.05, key=_key("top_p"), persist_state="session")
    number_field(_("Max tokens per text"), _key("max_tokens"), 1, 1_000_000, persist_state="session")
    st.text_area(
        _("Stop sequences, one per line"), key=_key("stop"), height=70, persist_state="session",
        help=_("Write a line break as \\n."),
    )  # fmt: skip
    seed = _("Seed (empty: random each time)")
    st.number_input(seed, value=None, step=1, key=_key("seed"), persist_state="session")
    st.text_area(
        _("Response format (JSON)"), key=_key("response_format"), height=70, persist_state="session",
        placeholder='{"type": "json_object"}',
    )  # fmt: skip
    st.segmented_control(
        _("API format"), list(formats), format_func=formats.__getitem__, required=True, key=_key("endpoint"),
        persist_state="session",
    )  # fmt: skip


def _unescaped(line: str) -> str:
    """A typed stop sequence, in which \\n is a line break."""
    try:
        return str(json.loads(f'"{line}"'))
    except ValueError:
        return line


def _problem(recipe: Recipe) -> FabulaError | None:
    """Why the list can't be run; a missing model is handled elsewhere."""
    try:
        if recipe.listed:
            replace(recipe, provider=recipe.provider or "-", model=recipe.model or "-").check()
        if recipe.response_format and not isinstance(json.loads(recipe.response_format), dict):
            raise ValueError
    except BadRecipe as problem:
        return problem
    except ValueError:
        return BadRecipe(
            msg("The response format is not a JSON object."), msg("Write it as in a request, or leave it empty.")
        )
    return None


def _tokens(found: PromptList, model: str) -> int:
    """The tokens of all prompts for this model, counted once per encoding."""
    counted = state.get_or_create("prompts", ReadList).tokens
    encoding = tokens.encoding_of(model) or ""
    if encoding not in counted:
        counted[encoding] = prompt_datasets.count_tokens(found.prompts, model)
    return counted[encoding]


def _example_card(recipe: Recipe, found: PromptList) -> None:
    """Render the first prompt, as the model will read it."""
    with st.container(border=True):
        st.markdown(_("**Example prompt**"))
        first = found.prompts[0].values
        if system := first.get(prompt_list.SYSTEM) or recipe.system.strip():
            st.caption(_("System text: {text}").format(text=plain(views.shortened(system))))
        st.text(views.shortened(first[prompt_list.PROMPT]))
        others = ((name, value) for name, value in first.items() if name not in found.columns)
        views.facts(pair(plain(name), plain(views.shortened(value, 60))) for name, value in others)


def _generate_card(recipe: Recipe, found: PromptList, problem: FabulaError | None) -> None:
    """Render the size of the run, its estimate, and the button that starts it."""
    settings = RunSettings()
    with st.container(border=True):
        if problem is not None:
            cards.hint(problem)
        else:
            st.markdown(
                _("**{prompts}** × {answers} = **{rows}**").format(
                    prompts=n_("{n} prompt", "{n} prompts", recipe.listed),
                    answers=n_("{n} answer", "{n} answers", recipe.repeats),
                    rows=n_("{n} row", "{n} rows", recipe.rows()),
                )
            )
            st.caption(n_("{n} token of prompts", "{n} tokens of prompts", recipe.listed_tokens))
            if recipe.model:
                settings = run_settings.choose(recipe)
        st.button(
            n_("Generate {n} row", "Generate {n} rows", recipe.rows()),
            type="primary",
            icon=":material/play_arrow:",
            disabled=problem is not None or settings.budget.problem is not None or not recipe.model,
            key=_key("generate"),
            on_click=_generate,
            args=(recipe, found, settings.mode, settings.budget.value),
            width="stretch",
        )
        if not recipe.model:
            models.none_yet()


def _generate(recipe: Recipe, found: PromptList, mode: Mode, budget_usd: Decimal | None) -> None:
    with cards.keep_errors():
        dataset_id = prompt_datasets.create(cache.store(), current_actor(), recipe, found)
        runs.enqueue(cache.store(), current_actor(), dataset_id, budget_usd=budget_usd, mode=mode)
        dataset_picker.open_part(dataset_id)
