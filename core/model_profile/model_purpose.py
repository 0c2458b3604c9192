"""What a model is for, decided from facts: the ledger of jobs, the engine's model list, the price list, its name.

A name is the only fact that most servers give. Publishers mark what answers instructions (`-instruct`, `-chat`, `-it`)
and what only continues text (`-base`, `-pt`); a name without such a mark says nothing, and then nothing is claimed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from core import packaged_models
from core.cost.prices import ENGINE, tuned_base
from core.providers import ModelInfo

Kind = Literal["stories", "tuned", "instructions", "base", "unknown"]

_ANSWERS = re.compile(
    r"(?<![a-z])(instruct|chat|it|assistant|turbo|reasoner)(?![a-z])"
    r"|^(gpt-3\.5|gpt-35|gpt-[4-9]|(chatgpt|o[1-9]|claude|gemini)(?![a-z]))",
    re.IGNORECASE,
)
_CONTINUES = re.compile(r"(?<![a-z])(base|pt|pretrained?)(?![a-z])|^(davinci|babbage|curie|ada)(-002)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What the ledger knows of the training of a model.

    Attributes:
        dataset: name of the data set; None: it no longer exists.
        rows: how many of its rows were learned from; None: unknown.
        root: the untuned model, or packaged writer, that the first job of the chain started from.
    """

    dataset: str | None
    rows: int | None
    root: str


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a model is for.

    Attributes:
        kind: `stories` (a packaged writer), `tuned`, `instructions`, `base` (continues text), `unknown`.
        language: of a packaged writer, that of its presets (`en`, `zh_CN`).
        dataset, rows: of a tuned model, what it was trained on; None: unknown.
        base: of a tuned model, what it was made from; None: unknown.
        narrow: it writes well only for prompts like those that it was trained on. A tuned model that was made from one
            that answers instructions still answers others.
    """

    kind: Kind
    language: str | None = None
    dataset: str | None = None
    rows: int | None = None
    base: str | None = None
    narrow: bool = False


def purpose_of(info: ModelInfo, trained: TrainingFacts | None = None, *, priced: bool = False) -> Purpose:
    """What `info` is for.

    Args:
        trained: what the ledger knows of its training; None: the ledger does not have the job.
        priced: the price list has a price for what it writes. Such lists hold models that answer, and the legacy bases
            that `_CONTINUES` names.
    """
    if trained is not None:
        root = untuned(info.provider, trained.root)
        return Purpose("tuned", None, trained.dataset, trained.rows, trained.root, narrow=root.kind != "instructions")
    if info.provider == ENGINE and info.id in packaged_models.WRITERS:
        return Purpose("stories", language=packaged_models.WRITERS[info.id], narrow=True)
    if (base := _made_from(info)) is not None:
        return Purpose("tuned", base=base)
    return untuned(info.provider, info.id, priced=priced)


def untuned(provider: str, model: str, *, priced: bool = False) -> Purpose:
    """What a model that nobody has tuned further is for."""
    name = model.rpartition("/")[2]
    if provider == ENGINE and model in packaged_models.WRITERS:
        return Purpose("stories", language=packaged_models.WRITERS[model], narrow=True)
    if _ANSWERS.search(name):
        return Purpose("instructions")
    if _CONTINUES.search(name) or (provider == ENGINE and model == packaged_models.BASE):
        return Purpose("base")
    return Purpose("instructions" if priced and provider != ENGINE else "unknown")


def _made_from(info: ModelInfo) -> str | None:
    """The base of a tuned model whose job is not in the ledger; None for a model that is not tuned."""
    return tuned_base(info.id) or (info.base if info.base not in (None, info.id) else None)
