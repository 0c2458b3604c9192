"""What a tour trains on: sample stories with the same two plots, as often as this machine learns in the time allowed.

A base of 270M parameters learns a plot only from many tellings. Of 24 stories with six plots it learned the sentences
and mixed the plots; of 15 stories with two, in fewer steps, it told them (measured with five epochs of either).
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from statistics import median

from core import packaged_models
from core.cost import tokens
from core.cost.prices import ENGINE
from core.dataset import datasets, presets
from core.db.store import Store
from core.errors import NotFound
from core.message import msg
from core.training import job_estimate

BATCH_SIZE = 4
PLOTS = 2
FEWEST_EPOCHS, MOST_EPOCHS = 3, 12  # on a slow machine the tour takes longer instead; more teach nothing new
SPARE_CELLS = 3  # combinations that are not trained on: the prompts of before and after
TRAINING_S = 200.0  # leaves 40 s of four minutes for the start-up and the two stories at the end
USUAL_TOKENS_PER_S = 130.0  # trained tokens; measured on two quiet cores: 130 to 250
_FEWEST_TELLINGS = 7  # of a plot


@dataclass(frozen=True, slots=True)
class TourPlan:
    """What is loaded and trained on.

    Attributes:
        sample: name of the sample (see `datasets.load_sample`).
        where: the values of its columns that are taken.
        stories: how many of those rows are taken: whole batches.
        epochs: how often each is learned.
        training_s: seconds that the training should take, without the start-up.
    """

    sample: str
    where: dict[str, list[str]]
    stories: int
    epochs: int
    training_s: float


def plan(store: Store, language: str, seed: int = 0) -> TourPlan:
    """The plan for a page's language (`en`, `zh_CN`): the sample of its first preset that has a tour.

    The seed draws the power and the plots. The speed is the median of the last jobs on the same base, if any.

    Raises:
        NotFound: no preset has a sample.
    """
    preset = next((one for one in presets.load(language) if one.sample and one.tour), None)
    if preset is None or preset.sample is None or preset.tour is None:
        raise NotFound(
            msg("There are no sample stories for the tour."), msg("Reinstall Fabula: its data folder is incomplete.")
        )
    column = next(one for one in preset.recipe.columns if one.name == preset.tour["column"])
    where = _where(preset.sample, column.name, column.values, preset.tour["values"], random.Random(seed))
    pairs = datasets.sample_pairs(preset.sample, where)
    per_story = tokens.count([text for pair in pairs for text in pair], packaged_models.BASE).tokens / len(pairs)
    rates = job_estimate.measured_rates(store, ENGINE, packaged_models.BASE)
    rate = median(rates) if rates else USUAL_TOKENS_PER_S
    spared = sum(count for _prompt, count in Counter(prompt for prompt, _story in pairs).most_common(SPARE_CELLS))
    stories = len(pairs) - spared
    stories -= stories % BATCH_SIZE
    epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, int(rate * TRAINING_S / (per_story * stories))))
    return TourPlan(preset.sample, where, stories, epochs, epochs * stories * per_story / rate)


def _where(
    sample: str, column: str, values: tuple[str, ...], n_values: int, draw: random.Random
) -> dict[str, list[str]]:
    """So many values of the column, and two plots among them: as many of each value."""
    chosen = draw.sample(values, n_values)
    plots: list[str] = []
    for value in chosen:
        told = datasets.sample_values(sample, "plot", {column: [value]})
        often = sorted(plot for plot, count in told.items() if count >= _FEWEST_TELLINGS)
        plots += draw.sample(often, PLOTS // n_values)
    return {column: chosen, "plot": plots}
