"""What an endpoint can do and how its API differs from OpenAI's. Core and pages check these capabilities, never the
endpoint's kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

Kind = Literal["engine", "openai", "azure", "together", "compatible"]
Training = Literal["openai", "azure", "together"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Properties of an endpoint that do not depend on the account or the model.

    Attributes:
        engine_api: whether it is a Fabula engine, with `/health`, a tokenizer and each model's format in its list.
        billed: whether requests cost money; if so, a request that may have been processed is not repeated.
        bills_rejections: whether a 400 response may be billed too.
        batches: whether it has a Batch API; None if the endpoint must be asked.
        batch_paths_have_version: whether the paths inside a batch file start with `/v1`.
        training: the provider whose API its files and fine-tuning jobs follow.
        trackers: trackers that its training jobs can log to.
        methods: training methods of its jobs that Fabula can start, by the API's names.
        training_options: whether its jobs accept the hyperparameters of `core.engine.training_options`.
        seed: whether `seed` is sent when answers are compared.
        rejects: request parameters that none of its models accept; they are not sent.
        token_limit: name of the chat parameter that limits the tokens of an answer.
        default_temperature: temperature that is not sent because it is the default; None if temperatures are always
            sent.
        inline_thinking: whether texts may contain the model's thinking, which is then removed.
        account_headers: whether to send it the headers for OPENAI_ORG_ID and OPENAI_PROJECT_ID.
        key_header: a header that contains the key, in addition to `Authorization`; "" if there is none.
        spaces_in_key: whether its key may contain spaces.
        has_resource_address: whether users enter the address of their resource, to which the path of the API is added.
        deploys_models: whether a tuned model must be deployed before it can be called.
        training_closed_to_idle, training_closed: dates from which only accounts that trained recently (or no accounts
            at all) may create a fine-tuning job; None if not announced.
    """

    engine_api: bool = False
    billed: bool = True
    bills_rejections: bool = False
    batches: bool | None = None
    batch_paths_have_version: bool = True
    training: Training = "openai"
    methods: frozenset[str] = frozenset({"supervised"})
    trackers: frozenset[str] = frozenset()
    training_options: bool = False
    seed: bool = False
    rejects: frozenset[str] = frozenset()
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    default_temperature: float | None = None
    inline_thinking: bool = True
    account_headers: bool = False
    key_header: str = ""
    spaces_in_key: bool = False
    has_resource_address: bool = False
    deploys_models: bool = False
    training_closed_to_idle: date | None = None
    training_closed: date | None = None


_COMPATIBLE = Capabilities()
_WITH_DPO = frozenset({"supervised", "dpo"})

BY_KIND: Mapping[Kind, Capabilities] = {
    "engine": Capabilities(
        engine_api=True,
        billed=False,
        batches=True,
        methods=_WITH_DPO,
        training_options=True,
        seed=True,
        default_temperature=1.0,  # `core.engine.serving.sampling`
        inline_thinking=False,  # its models write only what they were trained to write
        spaces_in_key=True,
    ),
    "openai": Capabilities(
        batches=True,
        methods=_WITH_DPO,
        trackers=frozenset({"wandb"}),
        seed=True,
        token_limit="max_completion_tokens",  # newer models accept only this name
        default_temperature=1.0,  # OpenAI's API reference
        account_headers=True,
        # OpenAI's deprecations page, 2026-05-07
        training_closed_to_idle=date(2026, 7, 2),
        training_closed=date(2027, 1, 6),
    ),
    "azure": Capabilities(
        bills_rejections=True,  # a 400 from its content filter: "Plan to manage costs"
        batches=True,
        batch_paths_have_version=False,  # as in Azure's documentation
        training="azure",
        default_temperature=1.0,  # Azure's API reference
        key_header="api-key",  # newer gateways accept either header
        has_resource_address=True,
        deploys_models=True,
    ),
    "together": replace(_COMPATIBLE, training="together"),
    # Default temperatures differ between servers (Mistral: 0.7; Qwen: per model; vLLM: from the model's files).
    "compatible": _COMPATIBLE,
}
