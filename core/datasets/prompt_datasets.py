"""Data sets whose prompts come from a list (`importers.prompt_list`) instead of a grid.

All rows are created at the start, so a run finds them like the rows of a grid, and claims, pays, retries and batches
them in the same way. `Recipe.listed` is the number of prompts. Conversations are rows of `conversation_rows`, so that
training files have all their messages and tools.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from sqlalchemy import insert, update

from core.actor import Actor, requires
from core.datasets import conversation_rows, grid
from core.datasets.datasets import new_dataset
from core.datasets.grid_store import CHUNK
from core.datasets.importers.prompt_list import ListedPrompt, PromptList
from core.datasets.recipe import Recipe
from core.db.store import Store
from core.db.tables import Dataset, Row, utcnow
from core.ownership import is_private_model, reads
from core.pricing import tokens

SOURCE = "prompts"
"""`Dataset.source` of these data sets."""
_SEPARATOR = "\n\n"  # between a row's own system text and its prompt, in training files
_COUNTED_PROMPTS = 20_000  # counting takes a second; the total of a longer list is estimated from as many


def with_list(recipe: Recipe, prompts: PromptList, listed_tokens: int | None = None) -> Recipe:
    """The recipe for these prompts: their number, their tokens for its model, and whether they are conversations.

    Args:
        listed_tokens: the result of `count_tokens`, if it is known.
    """
    return replace(
        recipe,
        columns=(),
        listed=len(prompts.prompts),
        listed_tokens=count_tokens(prompts.prompts, recipe.model) if listed_tokens is None else listed_tokens,
        conversations=prompts.conversations,
    )


def count_tokens(prompts: Sequence[ListedPrompt], model: str) -> int:
    """The tokens of all prompts, counted from the prompts themselves."""
    counted = prompts[:: -(-len(prompts) // _COUNTED_PROMPTS) or 1]
    total = tokens.count([prompt.text for prompt in counted], model).tokens
    return total if len(counted) == len(prompts) else round(total * len(prompts) / len(counted))


@requires("editor")
@reads(model="recipe.model")
def create(store: Store, actor: Actor, recipe: Recipe, prompts: PromptList) -> str:
    """Create a data set with one pending row for each answer, to be written by a run. Returns its id.

    It is private at first if its model is.

    Args:
        recipe: the settings, made with `with_list`.

    Raises:
        BadRecipe: the recipe is invalid.
        StorageFull: the disk is full; nothing is saved.
    """
    recipe.check()
    with store.session() as session:  # one transaction: a part of the list would look complete
        private = is_private_model(session, recipe.model)
        columns = [conversation_rows.COLUMN] if prompts.conversations else list(prompts.columns)
        dataset_id = new_dataset(
            store, actor, recipe.name, SOURCE, columns, recipe.to_dict(), _SEPARATOR, private=private
        )
        rows = _rows(dataset_id, recipe, prompts.prompts)
        while chunk := list(islice(rows, CHUNK)):
            session.execute(insert(Row.__table__), chunk)  # type: ignore[arg-type]  # a Table, typed as FromClause
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(fill_cursor=recipe.rows()))
    return dataset_id


def _rows(dataset_id: str, recipe: Recipe, prompts: Sequence[ListedPrompt]) -> Iterator[dict[str, Any]]:
    """The rows; the answers to one prompt are adjacent, so that they can share a request."""
    now = utcnow()
    for index, listed in enumerate(prompts):
        whole = {conversation_rows.COLUMN: listed.prompt} if recipe.conversations else {}
        for repeat in range(recipe.repeats):
            yield {
                "dataset_id": dataset_id,
                "key": grid.listed_key(recipe, listed.prompt, repeat),
                "position": index * recipe.repeats + repeat,
                "repeat": repeat,
                "column_values": {**whole, **listed.values},
                "prompt": listed.prompt,
                "state": "pending",
                "updated_at": now,
            }
