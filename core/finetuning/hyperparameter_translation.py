"""Translates the hyperparameters of an OpenAI job to another trainer, each with the reason and its source. Pure.

What has the same meaning is kept, what has another scale is left to the new trainer, and what has no counterpart is
named. A person can change every value afterwards, in the form of the new job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from core.engine import job_rules
from core.engine.job_rules import TrainingMethod
from core.finetuning.job_form import suffix_error
from core.message import msg
from core.providers.capabilities import Training
from core.providers.schemas import TrainingDefaults

AUTO: Final = "auto"
OPENAI_GUIDE: Final = "https://platform.openai.com/docs/api-reference/fine-tuning/create"
AZURE_GUIDE: Final = "https://learn.microsoft.com/azure/foundry/openai/how-to/fine-tuning"
TOGETHER_GUIDE: Final = "https://docs.together.ai/docs/fine-tuning/supported-models"
DPO_PAPER: Final = "https://arxiv.org/abs/2305.18290"
LORA_STUDY: Final = "https://thinkingmachines.ai/blog/lora/"
_LARGEST_LORA_BATCH = 32  # "LoRA Without Regret": with larger batches, LoRA falls behind full fine-tuning
_USUAL_EPOCHS = job_rules.automatic(None).n_epochs
_AZURE_SUFFIX = 18  # characters: Azure's REST reference, "Create fine tuning job"
_KNOWN = ("n_epochs", "batch_size", "learning_rate_multiplier")


@dataclass(frozen=True, slots=True)
class OldJob:
    """What is known of the job to repeat.

    Attributes:
        method: supervised, dpo, reinforcement, or another word.
        hyperparameters: the values that the job used, or `auto` where only that is known.
    """

    method: str = "supervised"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class TranslatedSetting:
    """One hyperparameter of the new job.

    Attributes:
        name: a field of `JobForm`.
        old: the old job's value; "" if it has none.
        value: the new value; None leaves it to the new trainer.
        automatic: what the new trainer chooses then; "" if it does not say.
        reason: why, as a sentence; source: where that comes from, an address or a document here.
    """

    name: str
    old: str
    value: int | float | None
    automatic: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Translation:
    """The settings of the new job, and sentences about what is not repeated. `method`: its training method."""

    settings: tuple[TranslatedSetting, ...]
    suffix: str | None
    left_out: tuple[str, ...]
    method: TrainingMethod = "supervised"

    @property
    def values(self) -> dict[str, Any]:
        """The values for `JobForm`; those left to the trainer are missing."""
        return {one.name: one.value for one in self.settings if one.value is not None}


def translate(
    old: OldJob,
    trainer: Training,
    *,
    engine: bool,
    defaults: TrainingDefaults | None,
    rows: int,
    has_preferences: bool = False,
) -> Translation:
    """The settings with which a job on another trainer comes closest to the old one.

    Args:
        trainer: the API that the new job uses; engine: whether it is Fabula's engine.
        defaults: the engine's values for the new base model.
        rows: number of training rows.
        has_preferences: whether the rows have the answers that were not preferred, which DPO needs.
    """
    repeats_dpo = old.method == "dpo" and engine and has_preferences
    settings = [
        _epochs(old, trainer, engine, rows),
        _batch_size(old, trainer, engine, rows),
        _rate(old, trainer, engine, defaults),
    ]
    if engine:
        settings += _adapter(defaults)
    if repeats_dpo:
        settings.append(_beta(old))
    suffix, dropped = _suffix(old, trainer)
    known = (*_KNOWN, "beta") if repeats_dpo else _KNOWN
    left_out = (*([] if repeats_dpo else _method(old, engine)), *dropped, *_without_counterpart(old, known))
    return Translation(tuple(settings), suffix, left_out, "dpo" if repeats_dpo else "supervised")


def _epochs(old: OldJob, trainer: Training, engine: bool, rows: int) -> TranslatedSetting:
    was = old.hyperparameters.get("n_epochs")
    known = _whole(was)
    low, high = job_rules.N_EPOCHS
    if known is not None:
        value = min(max(known, low), high)
        reason = msg("An epoch is one pass over all rows, with every trainer: kept.")
        if value != known:
            reason = msg("The most epochs that a job can have here: {most}.", most=high)
        return TranslatedSetting("n_epochs", _shown(was), value, "", reason, OPENAI_GUIDE)
    if trainer == "together":
        reason = msg("Together trains 1 epoch unless the job says otherwise. 3 is OpenAI's usual automatic choice.")
        return TranslatedSetting("n_epochs", _shown(was), _USUAL_EPOCHS, "", reason, TOGETHER_GUIDE)
    if engine:
        chosen = job_rules.automatic(rows).n_epochs
        reason = msg("The old value is not known. The engine chooses by the number of rows.")
        return TranslatedSetting("n_epochs", _shown(was), None, str(chosen), reason, "docs/training.md")
    reason = msg("The old value is not known. The provider chooses by the number of rows, as OpenAI does.")
    return TranslatedSetting("n_epochs", _shown(was), None, "", reason, AZURE_GUIDE)


def _batch_size(old: OldJob, trainer: Training, engine: bool, rows: int) -> TranslatedSetting:
    was = old.hyperparameters.get("batch_size")
    known = _whole(was)
    if trainer == "together":
        reason = msg("Together packs several rows into one, so its batches count something else: left to Together.")
        return TranslatedSetting("batch_size", _shown(was), None, "", reason, TOGETHER_GUIDE)
    if engine:
        automatic = str(job_rules.automatic(rows).batch_size)
        if known is None:
            reason = msg("The old value is not known. The engine's own value is measured on small data sets.")
            return TranslatedSetting("batch_size", _shown(was), None, automatic, reason, "docs/training.md")
        if known > _LARGEST_LORA_BATCH:
            reason = msg(
                "The engine trains a LoRA adapter, which learns less well with batches above {most} rows.",
                most=_LARGEST_LORA_BATCH,
            )
            return TranslatedSetting("batch_size", _shown(was), _LARGEST_LORA_BATCH, "", reason, LORA_STUDY)
    if known is None:
        reason = msg("The old value is not known. The provider chooses by the number of rows, as OpenAI does.")
        return TranslatedSetting("batch_size", _shown(was), None, "", reason, AZURE_GUIDE)
    value = min(max(known, job_rules.BATCH_SIZE[0]), job_rules.BATCH_SIZE[1])
    return TranslatedSetting(
        "batch_size", _shown(was), value, "", msg("Rows per step, the same meaning: kept."), OPENAI_GUIDE
    )


def _rate(old: OldJob, trainer: Training, engine: bool, defaults: TrainingDefaults | None) -> TranslatedSetting:
    was = old.hyperparameters.get("learning_rate_multiplier")
    known = _real(was)
    name = "learning_rate_multiplier"
    if engine:
        rate = "" if defaults is None else f"1.0 = {defaults.learning_rate:.1e}"
        reason = msg(
            "OpenAI multiplies a rate that it does not publish, so the old value has no meaning here. 1.0 is the rate "
            "measured on the engine, scaled to the model's width."
        )
        return TranslatedSetting(name, _shown(was), None, rate or "1.0", reason, "docs/models.md")
    if trainer == "together":
        reason = msg(
            "OpenAI multiplies a rate that it does not publish. Together's own learning rate is used; change it in "
            "the job form if the loss does not fall."
        )
        return TranslatedSetting(name, _shown(was), None, "", reason, TOGETHER_GUIDE)
    if trainer == "azure" and known is not None and _allowed_rate(known):
        reason = msg("Azure trains the same models through the same API: kept.")
        return TranslatedSetting(name, _shown(was), known, "", reason, AZURE_GUIDE)
    reason = msg("Each provider has its own scale: left to the provider.")
    return TranslatedSetting(name, _shown(was), None, "", reason, AZURE_GUIDE if trainer == "azure" else OPENAI_GUIDE)


def _adapter(defaults: TrainingDefaults | None) -> list[TranslatedSetting]:
    """The engine's own hyperparameters, which OpenAI's jobs do not have."""
    if defaults is None or defaults.lora_rank is None:
        return []
    reason = msg("OpenAI has no such setting. This is the engine's value for a model of this size.")
    return [
        TranslatedSetting("lora_rank", "", None, str(defaults.lora_rank), reason, "docs/models.md"),
        TranslatedSetting("lora_alpha", "", None, f"{defaults.lora_alpha or 0:g}", reason, "docs/models.md"),
    ]


def _beta(old: OldJob) -> TranslatedSetting:
    was = old.hyperparameters.get("beta")
    known = _real(was)
    if known is None or known > job_rules.BETA[1]:
        reason = msg("The old value is not known. 0.1 is the value of the paper, and TRL's default.")
        return TranslatedSetting("beta", _shown(was), None, f"{job_rules.AUTO_BETA:g}", reason, DPO_PAPER)
    return TranslatedSetting(
        "beta", _shown(was), known, "", msg("The same loss, so the same meaning: kept."), DPO_PAPER
    )


def _suffix(old: OldJob, trainer: Training) -> tuple[str | None, list[str]]:
    if not old.suffix:
        return None, []
    if suffix_error(old.suffix) is not None or (trainer == "azure" and len(old.suffix) > _AZURE_SUFFIX):
        return None, [
            msg("The new provider does not accept the suffix {suffix}, so it is left out.", suffix=repr(old.suffix))
        ]
    return old.suffix, []


def _method(old: OldJob, engine: bool) -> list[str]:
    if old.method == "dpo" and engine:
        return [
            msg(
                "The old model was trained with preferences (DPO), but the data set has no rejected answers. This job "
                "trains on the preferred ones, so the new model can differ. Compare both before you switch."
            )
        ]
    if old.method == "dpo":
        sentence = msg(
            "The old model was trained with preferences (DPO). This job would train on the preferred answers only, so "
            "the new model can differ. The engine can repeat DPO. Compare both before you switch."
        )
        return [sentence]
    if old.method == "supervised":
        return []
    return [
        msg(
            "The old model was trained by “{method}”, which Fabula can't repeat. This job trains on the answers in "
            "the data set instead.",
            method=old.method,
        )
    ]


def _without_counterpart(old: OldJob, known: Sequence[str]) -> list[str]:
    found = list[str]()
    if old.seed is not None:
        found.append(
            msg(
                "The seed {seed} is not repeated: with another trainer, the same seed does not give the same model.",
                seed=old.seed,
            )
        )
    for name in sorted(set(old.hyperparameters) - set(known)):
        found.append(
            msg("{name} = {value} has no counterpart here.", name=name, value=_shown(old.hyperparameters[name]))
        )
    return found


def _shown(value: object) -> str:
    return "" if value is None else str(value)[:40]


def _whole(value: object) -> int | None:
    number = _real(value)
    return int(number) if number is not None and number == int(number) and number >= 1 else None


def _real(value: object) -> float | None:
    """A positive finite number; None for anything else, such as `auto`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return None
    return float(value)


def _allowed_rate(value: float) -> bool:
    return job_rules.LEARNING_RATE_MULTIPLIER[0] <= value <= job_rules.LEARNING_RATE_MULTIPLIER[1]
