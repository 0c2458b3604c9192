"""Reads the training prompts of a model from the presets and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from core import packaged_models
from core.datasets import datasets, export, grid, presets
from core.datasets.presets import Preset
from core.db.store import Store
from core.errors import NotFound
from core.finetuning import lineage
from core.finetuning.job_views import JobView
from core.model_profile.model_purpose import TrainingFacts
from core.model_profile.prompt_similarity import PromptVocabulary, build_vocabulary
from core.pricing.prices import ENGINE

_MOST_PROMPTS = 2_000  # per data set: enough for its vocabulary, and read in a fraction of a second


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """How a tuned model was trained.

    Attributes:
        facts: for `model_purpose.purpose_of`.
        vocabulary: of its training prompts, including those of the models it was tuned from; None: no prompt exists any
            more.
        prompt: one of its training prompts, without separator; "": none exists any more.
        system: the system message of its conversations, or "".
    """

    facts: TrainingFacts
    vocabulary: PromptVocabulary | None
    prompt: str
    system: str


def of_job(store: Store, job: JobView) -> TrainingHistory:
    """The training history of the model that `job` produced, through every job of its chain."""
    chain = lineage.chain(store, job.id)
    root = chain[0].base_model
    own_prompts = list(_prompts(store, job))
    prompts, systems = [*own_prompts], [_system(store, job)]
    for earlier in chain[:-1]:
        prompts += _prompts(store, earlier)
        systems.append(_system(store, earlier))
    if job.provider == ENGINE and root in packaged_models.WRITERS:
        prompts += _of_presets(packaged_models.WRITERS[root])
    return TrainingHistory(
        TrainingFacts(_dataset_name(store, job), job.n_examples, root),
        build_vocabulary(prompts, systems),
        own_prompts[0] if own_prompts else "",
        systems[0],
    )


@lru_cache
def of_packaged_writer(language: str) -> PromptVocabulary | None:
    """Vocabulary of the packaged writer of a language: it was trained on every cell of that language's presets."""
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


def _prompts(store: Store, job: JobView) -> Iterator[str]:
    """Training prompts of a job; none if its data set was deleted."""
    if job.dataset_id is None:
        return
    try:
        for prompt, _text in islice(export.Selection(store, job.dataset_id, job.version_id).examples(), _MOST_PROMPTS):
            yield prompt
    except NotFound:
        return


def _system(store: Store, job: JobView) -> str:
    if job.dataset_id is None or job.file_format != "chat":
        return ""
    try:
        return datasets.chat_system(store, job.dataset_id)
    except NotFound:
        return ""


def _dataset_name(store: Store, job: JobView) -> str | None:
    if job.dataset_id is None:
        return None
    try:
        return datasets.summary(store, job.dataset_id).name
    except NotFound:
        return None
