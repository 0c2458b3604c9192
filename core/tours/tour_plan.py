"""What a tour trains on: composed stories of one plot, as many as this machine learns in the time allowed.

A base model of 270M parameters learns to tell one plot in four minutes. From hand-written stories with two plots it
learned the sentences but mixed them up; composed stories still make sense when mixed (`composed_stories`).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import pandas as pd

from core import packaged_models
from core.actor import Actor
from core.datasets import datasets, presets
from core.datasets.presets import Preset
from core.datasets.row_query import join_values
from core.db.store import Store
from core.errors import NotFound
from core.finetuning import job_estimate
from core.message import msg
from core.pricing import tokens
from core.pricing.prices import ENGINE
from core.tours import composed_stories

BATCH_SIZE = 4
EPOCHS = 2
# On a slow machine the tour takes longer instead of using fewer stories; more stories teach nothing new.
FEWEST_STORIES, MOST_STORIES = 48, 160
HELD_OUT = 3  # combinations that are not trained on: the prompts of the comparison
TRAINING_S = 200.0  # leaves 40 s of four minutes for the start-up and the two stories at the end
USUAL_TOKENS_PER_S = 130.0  # trained tokens; measured on two quiet cores: 130 to 250
_MEASURED_STORIES = 40  # stories whose tokens are counted


@dataclass(frozen=True, slots=True)
class TourPlan:
    """What is composed and trained on.

    Attributes:
        preset: the preset that has the columns and values of the stories.
        stories: number of stories: whole batches.
        training_s: seconds that the training should take, without the start-up.
        seed: seed of the draw of the power, its plot and the stories.
    """

    preset: Preset
    stories: int
    training_s: float
    seed: int


def plan(store: Store, language: str, seed: int = 0) -> TourPlan:
    """The plan for a page's language (`en`, `zh_CN`), with the first preset that has composed stories.

    The training speed is the median of the last jobs on the same base model, if any.

    Raises:
        NotFound: there is no such preset.
    """
    preset = next((one for one in presets.load(language) if one.composed is not None), None)
    if preset is None:
        raise NotFound(
            msg("There are no training stories for the tour."), msg("Reinstall Fabula: its data folder is incomplete.")
        )
    measured = stories(preset, _MEASURED_STORIES, seed)
    columns = _columns(preset)
    sample = [text for row in measured for text in (join_values((row[name] for name in columns), ","), row["story"])]
    per_story = tokens.count(sample, packaged_models.BASE).tokens / _MEASURED_STORIES
    rates = job_estimate.measured_speeds(store, ENGINE, packaged_models.BASE)
    rate = median(rates) if rates else USUAL_TOKENS_PER_S
    affordable = int(rate * TRAINING_S / (per_story * EPOCHS))
    n_stories = max(FEWEST_STORIES, min(MOST_STORIES, affordable - affordable % BATCH_SIZE))
    return TourPlan(preset, n_stories, EPOCHS * n_stories * per_story / rate, seed)


def load(store: Store, actor: Actor, plan: TourPlan) -> str:
    """Make the data set of a plan. Returns its id."""
    frame = pd.DataFrame(stories(plan.preset, plan.stories, plan.seed))
    name = plan.preset.recipe.name
    return datasets.from_frame(store, actor, name, frame, _columns(plan.preset), "story", "sample")


def stories(preset: Preset, n_stories: int, seed: int) -> list[dict[str, str]]:
    """Composed rows with the preset's columns and `story`."""
    values = {column.name: column.values for column in preset.recipe.columns}
    language = preset.composed or ""
    return composed_stories.stories_of_one_plot(language, values, n_stories, held_out=HELD_OUT, seed=seed)


def _columns(preset: Preset) -> list[str]:
    return [column.name for column in preset.recipe.columns]
