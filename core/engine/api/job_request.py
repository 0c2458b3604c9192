"""Parses the body of POST /v1/fine_tuning/jobs by OpenAI's rules. `auto` hyperparameters become None."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.engine import job_rules, training_options
from core.engine.api import integrations
from core.engine.api.errors import ApiError, bad_value
from core.engine.api.requests import integer, number, reject_unknown, required
from core.engine.chat_messages import is_missing
from core.engine.job_rules import TrainingMethod
from core.engine.number_checks import InvalidValue
from core.engine.training_options import TrainingOptions
from core.message import msg

_KNOWN = frozenset(
    [
        "model",
        "training_file",
        "validation_file",
        "suffix",
        "seed",
        "metadata",
        "method",
        "hyperparameters",
        "integrations",
    ]
)
_OPENAI_METHODS = frozenset({"supervised", "dpo", "reinforcement"})
_HYPERPARAMETERS = frozenset({"n_epochs", "batch_size", "learning_rate_multiplier", *training_options.NAMES})
_MAX_METADATA, _MAX_KEY, _MAX_VALUE = 16, 64, 512  # OpenAI's limits


@dataclass(frozen=True, slots=True)
class ParsedJobRequest:
    """A valid job request. A hyperparameter that is None means `auto`.

    Attributes:
        options: a rank of None means `auto`; all other options are resolved.
        names_adapter: whether the request sets `lora_rank` or `lora_alpha`.
        beta: DPO's beta, with `auto` resolved; None for other methods.
    """

    model: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    metadata: dict[str, str] | None
    integrations: list[dict[str, Any]]
    method: TrainingMethod
    n_epochs: int | None
    batch_size: int | None
    learning_rate_multiplier: float | None
    options: TrainingOptions
    names_adapter: bool
    beta: float | None


def parse(body: Mapping[str, Any]) -> ParsedJobRequest:
    """Parse a request body. Raises ApiError 400."""
    reject_unknown(body, _KNOWN)
    method, options = _method(body)
    hyperparameters, path = _hyperparameters(body, method, options)
    has_validation = not is_missing(body.get("validation_file"))
    return ParsedJobRequest(
        model=required(body, "model"),
        training_file=required(body, "training_file"),
        validation_file=required(body, "validation_file") if has_validation else None,
        suffix=_suffix(body.get("suffix")),
        seed=integer(body, "seed", *job_rules.SEED, secrets.randbelow(job_rules.SEED[1])),
        metadata=parse_metadata(body.get("metadata")),
        integrations=integrations.parse(body.get("integrations")),
        method=method,
        n_epochs=integer(hyperparameters, "n_epochs", *job_rules.N_EPOCHS, None, path),
        batch_size=integer(hyperparameters, "batch_size", *job_rules.BATCH_SIZE, None, path),
        learning_rate_multiplier=number(
            hyperparameters, "learning_rate_multiplier", *job_rules.LEARNING_RATE_MULTIPLIER, None, path
        ),
        options=_options(hyperparameters, has_validation, path),
        names_adapter=any(name in hyperparameters for name in training_options.ADAPTER_NAMES),
        beta=_beta(hyperparameters, path) if method == "dpo" else None,
    )


def _beta(hyperparameters: Mapping[str, Any], path: str) -> float:
    beta = number(hyperparameters, "beta", *job_rules.BETA, job_rules.AUTO_BETA, path)
    if not beta:
        raise bad_value(f"{path}beta", msg("'beta' must be above 0: with 0, all answers count as equally good."))
    return beta


def _options(hyperparameters: Mapping[str, Any], has_validation: bool, path: str) -> TrainingOptions:
    try:
        return training_options.read(hyperparameters, has_validation=has_validation)
    except InvalidValue as exc:
        raise bad_value(path + exc.name, exc.message) from exc


def _method(body: Mapping[str, Any]) -> tuple[TrainingMethod, dict[str, Any]]:
    """Return `method.type` (`supervised` if there is none) and the options under that name."""
    method = _object(body, "method")
    reject_unknown(method, _OPENAI_METHODS | {"type"}, "method.")
    asked = method.pop("type", "supervised")
    kind = next((known for known in job_rules.METHODS if known == asked), None)
    if kind is None or method.keys() - {kind}:
        methods = ", ".join(f"'{name}'" for name in job_rules.METHODS)
        message = msg("'method.type' must be one of {methods}: this engine has no other method.", methods=methods)
        raise ApiError(400, message, param="method.type", code="unsupported_parameter")
    return kind, _object(method, kind, "method.")


def _hyperparameters(
    body: Mapping[str, Any], method: TrainingMethod, options: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Read hyperparameters from the method, or from the request's top-level field, which is the older form.

    Returns them without those that are `auto`, and the prefix of their names in errors.
    """
    old = _object(body, "hyperparameters")
    reject_unknown(options, frozenset({"hyperparameters"}), f"method.{method}.")
    new = _object(options, "hyperparameters", f"method.{method}.")
    path = f"method.{method}.hyperparameters." if new else "hyperparameters."
    reject_unknown(new or old, _HYPERPARAMETERS | ({"beta"} if method == "dpo" else set()), path)
    return {name: value for name, value in (new or old).items() if value != "auto"}, path


def _object(body: Mapping[str, Any], name: str, prefix: str = "") -> dict[str, Any]:
    value = body.get(name)
    if is_missing(value):
        return {}
    if not isinstance(value, dict):
        raise bad_value(prefix + name, msg("'{prefix}{name}' must be an object.", prefix=prefix, name=name))
    return {key: item for key, item in value.items() if not is_missing(item)}


def _suffix(value: object) -> str | None:
    if is_missing(value):
        return None
    if not isinstance(value, str) or not job_rules.is_suffix(value):
        maximum = job_rules.MAX_SUFFIX_LENGTH
        raise bad_value(
            "suffix",
            msg(
                "'suffix' must be 1 to {maximum} letters (a-z), digits, dots, hyphens or underscores.", maximum=maximum
            ),
        )
    return value


def parse_metadata(value: object) -> dict[str, str] | None:
    if is_missing(value):
        return None
    if not isinstance(value, dict) or len(value) > _MAX_METADATA:
        raise bad_value(
            "metadata",
            msg("'metadata' must be an object with at most {max_metadata} pairs.", max_metadata=_MAX_METADATA),
        )
    metadata = {key: text for key, text in value.items() if text is not None}
    for key, text in metadata.items():
        if len(key) > _MAX_KEY or not isinstance(text, str) or len(text) > _MAX_VALUE:
            raise bad_value(
                f"metadata.{key[:_MAX_KEY]}",
                msg(
                    "'metadata' keys can have up to {max_key} characters; values must be strings of up to "
                    "{max_value} characters.",
                    max_key=_MAX_KEY,
                    max_value=_MAX_VALUE,
                ),
            )
    return metadata or None
