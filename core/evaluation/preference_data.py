"""Makes a data set for preference training (DPO) of the pairs that people voted on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd
from sqlalchemy import select

from core.actor import Actor, requires
from core.datasets import dataset_rows, datasets, versions
from core.datasets.importers import preference_lines
from core.db.store import Store
from core.db.tables import Checkpoint, Dataset, Row, TrainingJob
from core.errors import BadTrainingFile
from core.finetuning.job_form import default_validation_share
from core.message import msg
from core.stories.vote_pairs import PreferencePair

PREFERRED_MODEL: Final = "preferred_model"
REJECTED_MODEL: Final = "rejected_model"
"""Columns that name the models that wrote the two answers."""
_PROMPT = "prompt"
_COMMA = ","


@dataclass(frozen=True, slots=True)
class PreferenceData:
    """A data set of votes, and its version with some pairs for validation."""

    dataset_id: str
    version_id: str


@requires("editor")
def save(store: Store, actor: Actor, name: str, pairs: Sequence[PreferencePair]) -> PreferenceData:
    """Save pairs as a data set with one version. A tenth of them is kept for validation if there are 20 or more.

    If the prompts of all pairs are the same columns, joined as in the training data of the model that was voted on,
    these are its columns; otherwise its only column is the prompt. The data set is private if an answer is.

    Raises:
        BadTrainingFile: there are no pairs.
    """
    if not pairs:
        raise BadTrainingFile(
            msg("There is no pair of answers to learn from."), msg("Compare models on the Story page, and vote.")
        )
    columns, separator = _prompt_format(store, pairs)
    answer, rejected, *others = _free_names(columns)
    systems = {pair.system for pair in pairs}
    conversations = [_conversation(pair, is_needed=len(systems) > 1) for pair in pairs]
    frame = pd.DataFrame(
        [
            {
                **(pair.values or {} if columns != [_PROMPT] else {_PROMPT: pair.prompt}),
                answer: pair.preferred,
                rejected: pair.other,
                others[0]: pair.preferred_model,
                others[1]: pair.other_model,
                others[2]: conversation,
            }
            for pair, conversation in zip(pairs, conversations, strict=True)
        ]
    )
    others = others if any(conversations) else others[:2]
    with store.session():  # one transaction: a data set without its version would look unfinished
        dataset_id = datasets.from_frame(
            store, actor, name, frame, columns, answer, "votes", rejected_column=rejected, other_columns=others,
            separator=separator, private=any(pair.private for pair in pairs),
        )  # fmt: skip
        if len(systems) == 1 and (system := systems.pop()):
            datasets.set_system_message(store, actor, dataset_id, system)
        share = default_validation_share(len(pairs))
        return PreferenceData(dataset_id, versions.freeze(store, actor, dataset_id, validation_share=share))


def voted_models(store: Store, dataset_id: str) -> tuple[str, ...]:
    """The models whose answers a data set of votes compares, the most frequent first; () for other data sets."""
    query = select(Row.column_values).where(
        Row.dataset_id == dataset_id, Row.state == "done", Row.rejected.is_not(None)
    )
    counts: Counter[str] = Counter()
    with store.reading() as session:
        for values in session.scalars(query.limit(1_000)):
            counts.update(str(values[name]) for name in (PREFERRED_MODEL, REJECTED_MODEL) if values.get(name))
    return tuple(name for name, _n in counts.most_common())


def _prompt_format(store: Store, pairs: Sequence[PreferencePair]) -> tuple[list[str], str]:
    """The columns whose joined values are the prompts, and what joins them; the prompt itself if there are none."""
    columns = list(pairs[0].values or {})
    separator = _separator(store, columns, pairs)
    joined = bool(columns) and all(
        list(pair.values or {}) == columns
        and dataset_rows.join_values((pair.values or {}).values(), separator) == pair.prompt
        for pair in pairs
    )
    return (columns, separator) if joined else ([_PROMPT], _COMMA)


def _free_names(columns: Sequence[str]) -> list[str]:
    """Names of the other columns, none of which is one of these."""
    wanted = ("preferred", "rejected", PREFERRED_MODEL, REJECTED_MODEL, preference_lines.COLUMN)
    return [name if name not in columns else f"{name} (vote)" for name in wanted]


def _conversation(pair: PreferencePair, *, is_needed: bool) -> str:
    """What a pair asks beyond its prompt. `is_needed`: its system text is a part of that, because others differ."""
    if not is_needed or not pair.system:
        return pair.conversation
    return preference_lines.with_system(pair.conversation, pair.prompt, pair.system)


def _separator(store: Store, columns: Sequence[str], pairs: Sequence[PreferencePair]) -> str:
    """What joins the columns in the training data of the model that was voted on."""
    names = {name for pair in pairs[:100] for name in (pair.preferred_model, pair.other_model)}
    query = select(Dataset.prompt_separator, Dataset.columns).join(TrainingJob, TrainingJob.dataset_id == Dataset.id)
    of_points = query.join(Checkpoint, Checkpoint.job_id == TrainingJob.id).where(Checkpoint.model.in_(names))
    with store.reading() as session:
        for one in (query.where(TrainingJob.fine_tuned_model.in_(names)), of_points):
            for separator, trained in session.execute(one.limit(100)):
                if list(trained) == list(columns):
                    return str(separator)
    return _COMMA
