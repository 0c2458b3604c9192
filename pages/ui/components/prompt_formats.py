"""How a model is prompted: the columns with suggested values, the template or the separator, and the next prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.datasets import conversation_rows, dataset_rows, datasets, grid, presets
from core.errors import FabulaError, NotFound
from core.model_profile.model_purpose import purpose_of
from core.providers import ModelInfo
from core.providers.registry import ENGINE
from core.providers.schemas import Endpoint
from core.stories import prompt_suggestions
from pages.ui import cache, state
from pages.ui.cache import shared
from pages.ui.components import views
from pages.ui.components.money import local_price
from pages.ui.components.story_session import story_session
from pages.ui.i18n import _, as_markdown, code, language, plain, usd

_CHECKPOINT = ":ckpt-step-"
_PROMPT = "prompt"  # the only column of a model whose columns are unknown

_TRIES = 20  # skips prompts that are empty or already in the composer


_SUGGESTED_FROM = 1_000  # rows read for suggestions
_MOST_SUGGESTIONS = 50  # a longer list is not helpful


@dataclass(frozen=True, slots=True)
class SamplingValues:
    """A model's default sampling settings; the defaults here are for models that follow instructions."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 1_000


# small models: at higher temperatures their texts become incoherent
_TUNED_HERE = SamplingValues(temperature=0.5, top_p=0.8)


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """The prompt format of a model: its columns with suggested values, and how they become a prompt.

    A model that was tuned on rows gets the values joined by `between`, then its separator, and ends at its stop; every
    other model gets the filled template. `source`: the data set of a tuned model. A column that was empty in some rows
    has "" among its values, and may be left empty. `system`: the system text of its training conversations; `endpoint`:
    the endpoint it was trained for; None means the one it supports. `sampling`: the model's default sampling settings.
    `data_deleted`: its data set no longer exists, so its columns are unknown: it gets one column for the whole prompt.
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    template: str | None
    separator: str = ""
    stop: tuple[str, ...] = ()
    source: str | None = None
    between: str = ","
    system: str = ""
    endpoint: Endpoint | None = None
    sampling: SamplingValues = SamplingValues()
    data_deleted: bool = False

    def prompt(self, values: Mapping[str, str]) -> str:
        """The prompt for values of all columns; "" while one is missing."""
        if any(not values.get(name) and "" not in suggested for name, suggested in self.columns):
            return ""
        if self.template is None:
            prompt = dataset_rows.join_values((values.get(name, "") for name, _suggested in self.columns), self.between)
            return prompt and prompt + self.separator
        return grid.render(self.template, dict(values))

    def sentence(self, values: Mapping[str, str]) -> str:
        """The values in the template, for a model that was not tuned on them; "" if the data set has no template."""
        if self.template is not None or self.source is None:
            return self.prompt(values)
        recipe = datasets.grid_recipe(cache.store(), self.source)
        return "" if recipe is None else grid.render(recipe.template, dict(values))


def prompt_format_of(info: ModelInfo) -> PromptFormat:
    """The prompt format of a model.

    For a tuned model, the format of its training file; for a packaged writer, the preset it was trained on; for every
    other model, the preset for the page's language.
    """
    job = cache.job_of(info.id)
    if job is not None and job.dataset_id is not None:
        chat = job.file_format == "chat"
        of_file = PromptFormat(
            columns=((_PROMPT, ()),),
            template=None,
            separator=job.separator or "",
            stop=(job.stop,) if job.stop else (),
            endpoint=None if chat else "completion",
            sampling=_TUNED_HERE if job.provider == ENGINE else SamplingValues(),
            data_deleted=True,
        )
        try:
            return replace(
                of_file,
                columns=_suggestions(job.dataset_id),
                source=job.dataset_id,
                between=_prompt_separator(job.dataset_id),
                system=datasets.system_message(cache.store(), job.dataset_id) if chat else "",
                data_deleted=False,
            )
        except NotFound:
            return of_file
    return preset_format(purpose_of(info).language)


def preset_format(learned: str | None = None) -> PromptFormat:
    """The format of a model that was not tuned here: its own preset, or the preset of the page's language."""
    preset = presets.get(language=learned or language())
    return PromptFormat(
        tuple((column.name, column.values) for column in preset.recipe.columns),
        preset.recipe.template,
        sampling=SamplingValues(**preset.story) if learned else SamplingValues(),
    )


def prompt_for(own: PromptFormat, first: PromptFormat, values: Mapping[str, str], prompt: str) -> str:
    """Convert `prompt`, made from `values` in the format `first`, to the format `own`.

    If the columns differ, the model gets the filled template of the first format. Without values (a free prompt) the
    prompt is unchanged.
    """
    if not values:
        return prompt
    has_values = all(name in values for name, _suggested in own.columns)
    return own.prompt(values) if has_values else (first.sentence(values) or prompt)


def about(info: ModelInfo) -> None:
    """Render one line: base, tuned or checkpoint; where it runs; price per 1k tokens.

    An unknown price is omitted, because the sample button next to the picker shows it.
    """
    views.facts((_kind(info), _runs_where(info), _price(info)))


def _kind(info: ModelInfo) -> str:
    base = info.base if info.base not in (None, info.id) else None
    if _CHECKPOINT in info.id:
        return _("Checkpoint of step {step}").format(step=plain(info.id.split(_CHECKPOINT)[1]))
    if base is None:  # which models of other providers are base models is not known
        return _("Base model") if info.provider == ENGINE else ""
    return _("Tuned from {base}").format(base=code(base))


def _runs_where(info: ModelInfo) -> str:
    if info.provider == ENGINE:
        return _("runs on this machine")
    try:
        name = cache.registry().provider(info.provider).name
    except FabulaError:
        name = info.provider
    return _("runs at {provider}").format(provider=as_markdown(name))


def _price(info: ModelInfo) -> str:
    price = cache.prices().find(info.provider, info.id)
    if price is None or price.output_per_mtok is None or price.currency != "USD":
        return ""
    if price.local:
        return local_price()
    return _("{price} per 1k tokens written").format(price=usd(price.output_per_mtok / 1000))


def outside_values(prompt_format: PromptFormat) -> list[tuple[str, ...]]:
    """Values outside the grid, in column order; only if the columns are a preset's."""
    names = tuple(name for name, _values in prompt_format.columns)
    return [
        values
        for preset in presets.load()
        if tuple(column.name for column in preset.recipe.columns) == names
        for values in preset.outside
    ]


def fill_in(names: Sequence[str], values: Sequence[str]) -> None:
    """Set one value per column; a story with other values is removed from the page."""
    for name, value in zip(names, values, strict=True):
        state.set_value(f"story_column_{name}", value)
    story_session().clear()


def advance(prompt_format: PromptFormat) -> None:
    """Fill in the next prompt: into the columns, or as text in free-prompt mode."""
    session, offers = story_session(), outside_values(prompt_format)
    for _try in range(_TRIES):
        session.prompt_number += 1
        values = prompt_suggestions.nth_prompt(prompt_format.columns, offers, session.prompt_number)
        prompt = prompt_format.prompt(values)
        if not prompt:
            continue
        if state.get("story_mode") == "free":
            if prompt != state.get("story_prompt"):
                state.set_value("story_prompt", prompt)
                session.clear()
                return
        elif any(value != state.get(f"story_column_{name}") for name, value in values.items()):
            fill_in(list(values), list(values.values()))
            return


@shared(ttl=60, max_entries=32)
def _suggestions(dataset_id: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Columns of a data set with their values in order of appearance; "" if some rows have none."""
    recipe = datasets.grid_recipe(cache.store(), dataset_id)
    if recipe is not None:
        return tuple((column.name, column.values) for column in recipe.columns)
    values_by_column: dict[str, dict[str, None]] = {}
    columns = datasets.summary(cache.store(), dataset_id).columns
    for name in (conversation_rows.ASKED,) if conversation_rows.holds(columns) else columns:
        values_by_column[name] = {}
    for row in dataset_rows.page(cache.store(), dataset_id, limit=_SUGGESTED_FROM):
        for name, values in values_by_column.items():  # only prompt columns, not values that are merely stored
            values[row.values.get(name, "")] = None
    return tuple((name, tuple(values)[:_MOST_SUGGESTIONS]) for name, values in values_by_column.items())


@shared(ttl=60, max_entries=32)
def _prompt_separator(dataset_id: str) -> str:
    """The separator between the columns of a data set's prompts."""
    return datasets.summary(cache.store(), dataset_id).prompt_separator
