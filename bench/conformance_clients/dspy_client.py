"""DSPy: programs that call a model, and fine-tuning with its provider for OpenAI."""

from __future__ import annotations

from typing import Any, Literal

import dspy
from dspy.clients.utils_finetune import TrainDataFormat

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, INSTRUCT, KEY, TRAINED, URL, method


class Weather(dspy.Signature):  # type: ignore[misc]  # DSPy is not installed where types are checked
    """The weather of a city."""

    question: str = dspy.InputField()
    unit: Literal["C", "F"] = dspy.OutputField()
    degrees: int = dspy.OutputField()


def _model(name: str = f"openai/{CHAT}", **options: Any) -> Any:
    return dspy.LM(name, api_base=URL, api_key=KEY, temperature=0, cache=False, **{"max_tokens": 60, **options})


@method("chat")
def chat() -> None:
    (text,) = _model(max_tokens=8)("Say this is a test.")
    assert text


@method("completions")
def completions() -> None:
    (text,) = _model(f"text-completion-openai/{INSTRUCT}", model_type="text", max_tokens=6)("The sky is")
    assert text


@method("responses")
def responses() -> None:
    answers = _model(model_type="responses", max_tokens=16)("Say this is a test.")
    assert answers[0]


@method("predict")
def predict() -> None:
    """With DSPy's JSON adapter, whose schema the grammar enforces."""
    with dspy.context(lm=_model(max_tokens=300), adapter=dspy.JSONAdapter()):
        answer = dspy.Predict(Weather)(question="What is the weather in Paris?")
    assert answer.unit in ("C", "F")
    assert isinstance(answer.degrees, int)


@method("predict stream")
def predict_stream() -> None:
    program = dspy.streamify(dspy.Predict("question -> answer"), async_streaming=False)
    with dspy.context(lm=_model(max_tokens=300), adapter=dspy.JSONAdapter()):
        parts = list(program(question="Say this is a test."))
    assert isinstance(parts[-1], dspy.Prediction)


@method("fine-tuning")
def fine_tuning() -> None:
    """DSPy trains through the SDK, whose address and key are in the environment."""
    job = _model(f"openai/{TRAINED}").finetune(
        _methods.conversations(), TrainDataFormat.CHAT, {"n_epochs": 1, "batch_size": 5}
    )
    tuned = job.result()
    assert isinstance(tuned, dspy.LM), tuned
    assert "ft:" in tuned.model
    assert isinstance(_named(tuned)("hero 1")[0], str)


def _named(tuned: Any) -> Any:
    return _model(tuned.model if tuned.model.startswith("openai/") else f"openai/{tuned.model}", max_tokens=4)


if __name__ == "__main__":
    _methods.run("dspy")
