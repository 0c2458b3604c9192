"""What a tour trains on: stories of a sample that share a power, as many as this machine learns in the time allowed.

All powers at once would give it a hundred plots and a few steps for each: it would learn the sentences and not the
sense. Stories of one power share five or six plots, each told many times.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import median

from core import packaged
from core.cost import tokens
from core.cost.prices import ENGINE
from core.dataset import datasets, presets
from core.db.store import Store
from core.errors import NotFound
from core.message import msg
from core.training import estimating

BATCH_SIZE = 4
EPOCHS = 2
SPARE_CELLS = 3  # combinations that are not trained on: the prompts of before and after
TRAINING_S = 200.0  # leaves 40 s of four minutes for the start-up and the two stories at the end
USUAL_TOKENS_PER_S = 130.0  # trained tokens; measured on two quiet cores: 130 to 250
_FEWEST_STORIES = 60  # fewer teach the base no whole story; on a slow machine the tour takes longer instead


@dataclass(frozen=True, slots=True)
class TourPlan:
    """What is loaded and trained on.

    Attributes:
        sample: name of the sample (see `datasets.load_sample`).
        where: the values of its columns that are taken.
        stories: how many of those rows are taken: whole batches.
        training_s: seconds that the training should take, without the start-up.
    """

    sample: str
    where: dict[str, list[str]]
    stories: int
    training_s: float


def plan(store: Store, language: str, seed: int = 0) -> TourPlan:
    """The plan for a page's language (`en`, `zh_CN`): the sample of its first preset that has a tour.

    The seed draws the power. The speed is the median of the last jobs on the same base, where there are any.

    Raises:
        NotFound: no preset has a sample.
    """
    preset = next((one for one in presets.load(language) if one.sample and one.tour), None)
    if preset is None or preset.sample is None or preset.tour is None:
        raise NotFound(
            msg("There are no sample stories for the tour."), msg("Reinstall Fabula: its data folder is incomplete.")
        )
    column = next(one for one in preset.recipe.columns if one.name == preset.tour["column"])
    where = {column.name: random.Random(seed).sample(column.values, preset.tour["values"])}
    pairs = datasets.sample_pairs(preset.sample, where)
    per_story = tokens.count([text for pair in pairs for text in pair], packaged.BASE).tokens / len(pairs)
    rates = estimating.measured_rates(store, ENGINE, packaged.BASE)
    rate = median(rates) if rates else USUAL_TOKENS_PER_S
    repeats = len(pairs) // len({prompt for prompt, _story in pairs})
    most = len(pairs) - SPARE_CELLS * repeats
    stories = min(most, max(_FEWEST_STORIES, int(rate * TRAINING_S / per_story / EPOCHS)))
    stories -= stories % BATCH_SIZE
    return TourPlan(preset.sample, where, stories, EPOCHS * stories * per_story / rate)
