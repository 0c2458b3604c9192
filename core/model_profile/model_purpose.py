"""Derives a model's purpose from the job ledger, the engine's model list, the price list and the model's name; reads
its training prompts from the presets and the ledger.

Most servers only report a name. Publishers mark models that follow instructions (`-instruct`, `-chat`, `-it`) and those
that only continue text (`-base`, `-pt`); for a name without such a suffix the purpose is "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Literal

from core import packaged_models
from core.datasets import datasets, export, grid, presets
from core.datasets.presets import Preset
from core.db.store import Store
from core.errors import NotFound
from core.finetuning import lineage
from core.finetuning.job_views import JobView
from core.model_profile.prompt_similarity import PromptVocabulary, build_vocabulary
from core.pricing.prices import ENGINE, tuned_base
from core.providers import ModelInfo

Kind = Literal["stories", "tuned", "instructions", "base", "unknown"]

_FOLLOWS_INSTRUCTIONS = re.compile(
    r"(?<![a-z])(instruct|chat|it|assistant|turbo|reasoner)(?![a-z])"
    r"|^(gpt-3\.5|gpt-35|gpt-[4-9]|(chatgpt|o[1-9]|claude|gemini)(?![a-z]))",
    re.IGNORECASE,
)
_CONTINUES_TEXT = re.compile(
    r"(?<![a-z])(base|pt|pretrained?)(?![a-z])|^(davinci|babbage|curie|ada)(-002)?$", re.IGNORECASE
)
_MOST_PROMPTS = 2_000  # per data set: enough for its vocabulary, and read in a fraction of a second


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """How a model was trained, from the ledger.

    Attributes:
        dataset: name of the data set; None if it no longer exists.
        rows: number of training rows; None if unknown.
        root: base model of the first job in the chain: an untuned model or a packaged writer.
    """

    dataset: str | None
    rows: int | None
    root: str


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a model is for.

    Attributes:
        kind: `stories` (a packaged writer), `tuned`, `instructions`, `base` (continues text), `unknown`.
        language: for a packaged writer, the language of its presets (`en`, `zh_CN`).
        dataset, rows: for a tuned model, its training data; None if unknown.
        base: for a tuned model, its base model; None if unknown.
        narrow: whether it writes well only for prompts like its training prompts. A model that was tuned from an
            instruction model also handles other prompts.
    """

    kind: Kind
    language: str | None = None
    dataset: str | None = None
    rows: int | None = None
    base: str | None = None
    narrow: bool = False


def purpose_of(info: ModelInfo, trained: TrainingFacts | None = None, *, priced: bool = False) -> Purpose:
    """The purpose of a model.

    Args:
        info: the model as its provider lists it.
        trained: its training history; None if its job is not in the ledger.
        priced: whether the price list has an output price for it. Price lists contain instruction models, and the
            legacy base models that `_CONTINUES_TEXT` matches.
    """
    if trained is not None:
        root = untuned_purpose(info.provider, trained.root)
        return Purpose("tuned", None, trained.dataset, trained.rows, trained.root, narrow=root.kind != "instructions")
    if info.provider == ENGINE and info.id in packaged_models.WRITERS:
        return Purpose("stories", language=packaged_models.WRITERS[info.id], narrow=True)
    if (base := _tuned_from(info)) is not None:
        return Purpose("tuned", base=base)
    return untuned_purpose(info.provider, info.id, priced=priced)


def untuned_purpose(provider: str, model: str, *, priced: bool = False) -> Purpose:
    """The purpose of a model that is not fine-tuned."""
    name = model.rpartition("/")[2]
    if provider == ENGINE and model in packaged_models.WRITERS:
        return Purpose("stories", language=packaged_models.WRITERS[model], narrow=True)
    if _FOLLOWS_INSTRUCTIONS.search(name):
        return Purpose("instructions")
    if _CONTINUES_TEXT.search(name) or (provider == ENGINE and model == packaged_models.BASE):
        return Purpose("base")
    return Purpose("instructions" if priced and provider != ENGINE else "unknown")


def _tuned_from(info: ModelInfo) -> str | None:
    """The base of a tuned model whose job is not in the ledger; None for an untuned model."""
    return tuned_base(info.id) or (info.base if info.base not in (None, info.id) else None)


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """How a tuned model was trained.

    Attributes:
        facts: the facts that `purpose_of` needs.
        vocabulary: the vocabulary of its training prompts, including those of the models it was tuned from; None if
            none of these prompts exists any more.
        prompt: one of its training prompts, without separator; "" if none exists any more.
        system: the system message of its conversations, or "".
    """

    facts: TrainingFacts
    vocabulary: PromptVocabulary | None
    prompt: str
    system: str


def training_history(store: Store, job: JobView) -> TrainingHistory:
    """The training history of the model that `job` produced, through every job of its chain."""
    chain = lineage.chain(store, job.id)
    root = chain[0].base_model
    own_prompts = list(_prompts_of_job(store, job))
    prompts, systems = [*own_prompts], [_system_of_job(store, job)]
    for earlier in chain[:-1]:
        prompts += _prompts_of_job(store, earlier)
        systems.append(_system_of_job(store, earlier))
    if job.provider == ENGINE and root in packaged_models.WRITERS:
        prompts += _of_presets(packaged_models.WRITERS[root])
    return TrainingHistory(
        TrainingFacts(_dataset_name(store, job), job.n_examples, root),
        build_vocabulary(prompts, systems),
        own_prompts[0] if own_prompts else "",
        systems[0],
    )


@lru_cache
def writer_vocabulary(language: str) -> PromptVocabulary | None:
    """The vocabulary of a language's packaged writer, which was trained on every cell of that language's presets."""
    return build_vocabulary(_of_presets(language))


def presets_of(language: str) -> tuple[Preset, ...]:
    """The presets that the packaged writer of a language was trained on."""
    return tuple(preset for preset in presets.load() if preset.language == language)


def _of_presets(language: str) -> list[str]:
    return [
        grid.render(preset.recipe.template, grid.cell(preset.recipe, position).values)
        for preset in presets_of(language)
        for position in range(min(preset.recipe.rows(), _MOST_PROMPTS))
    ]


def _prompts_of_job(store: Store, job: JobView) -> Iterator[str]:
    """Training prompts of a job; none if its data set was deleted."""
    if job.dataset_id is None:
        return
    try:
        for prompt, _text in islice(export.Selection(store, job.dataset_id, job.version_id).examples(), _MOST_PROMPTS):
            yield prompt
    except NotFound:
        return


def _system_of_job(store: Store, job: JobView) -> str:
    if job.dataset_id is None or job.file_format != "chat":
        return ""
    try:
        return datasets.system_message(store, job.dataset_id)
    except NotFound:
        return ""


def _dataset_name(store: Store, job: JobView) -> str | None:
    if job.dataset_id is None:
        return None
    try:
        return datasets.summary(store, job.dataset_id).name
    except NotFound:
        return None
