"""What a tour trains on: which sample, and as many of its stories as this machine learns in the time allowed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from core.cost import tokens
from core.cost.prices import ENGINE
from core.dataset import datasets, presets
from core.db.store import Store
from core.errors import NotFound
from core.training import estimating

BASE_MODEL = "gemma-3-270m"
BATCH_SIZE = 4
TRAINING_S = 200.0  # leaves 40 s of four minutes for the start-up and the two stories at the end
USUAL_TOKENS_PER_S = 130.0  # trained tokens; measured on two quiet cores: 130 to 250
_FEWEST_STORIES = 100  # fewer teach the base no whole story; on a slow machine the tour takes longer instead


@dataclass(frozen=True, slots=True)
class TourPlan:
    """What is loaded and trained on.

    Attributes:
        sample: name of the sample (see `datasets.load_sample`).
        stories: how many of its rows are taken: whole batches.
        training_s: seconds that one epoch should take, without the start-up.
    """

    sample: str
    stories: int
    training_s: float


def plan(store: Store, language: str) -> TourPlan:
    """The plan for a page's language (`en`, `zh_CN`): the sample of its first preset that has stories.

    The speed is the median of the last jobs on the same base, where there are any.

    Raises:
        NotFound: no preset has a sample.
    """
    sample = next((one.sample for one in presets.load(language) if one.sample and one.language), None)
    if sample is None:
        raise NotFound("There are no sample stories for the tour.", "Reinstall Fabula: its data folder is incomplete.")
    pairs = datasets.sample_pairs(sample)
    per_story = tokens.count([text for pair in pairs for text in pair], BASE_MODEL).tokens / len(pairs)
    rates = estimating.measured_rates(store, ENGINE, BASE_MODEL)
    rate = median(rates) if rates else USUAL_TOKENS_PER_S
    stories = min(len(pairs), max(_FEWEST_STORIES, int(rate * TRAINING_S / per_story)))
    stories -= stories % BATCH_SIZE
    return TourPlan(sample, stories, stories * per_story / rate)
