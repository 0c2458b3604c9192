"""Which objective each training method has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from core.engine.job_rules import AUTO_BETA, TrainingMethod
from core.engine.training.job_folder import JobSpec
from core.engine.training.trainer.dpo import DirectPreference
from core.engine.training.trainer.model import TunableModel
from core.engine.training.trainer.objective import Objective, Supervised

OBJECTIVES: Mapping[TrainingMethod, Callable[[TunableModel, JobSpec], Objective[Any]]] = {
    "supervised": lambda model, _: Supervised(model),
    "dpo": lambda model, spec: DirectPreference(model, AUTO_BETA if spec.beta is None else spec.beta),
}
