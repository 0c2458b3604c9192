"""DPO: its loss and gradient against plain torch, its files, and a job that is interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.engine import finetune_format  # noqa: E402
from core.engine.chat_messages import BadLine  # noqa: E402
from core.engine.formats import gguf_file, tokens, weights  # noqa: E402
from core.engine.formats.tokens import Encoded  # noqa: E402
from core.engine.training.job_folder import JobSpec, Journal, metrics_csv, read_lines  # noqa: E402
from core.engine.training.trainer import model, resume, run  # noqa: E402
from core.engine.training.trainer.device import cpu  # noqa: E402
from core.engine.training.trainer.dpo import DirectPreference  # noqa: E402
from core.engine.training.trainer.loop import Loop  # noqa: E402
from core.engine.training.trainer.resume import Position  # noqa: E402
from tests.support.tiny_gemma import write_tiny_gemma  # noqa: E402

BETA = 0.3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted weights of a tiny model."""
    folder = tmp_path_factory.mktemp("base")
    weights.convert(write_tiny_gemma(folder / "tiny.gguf"), folder / "weights", lambda _: None)
    return folder / "weights"


def _pairs(n: int) -> list[Encoded]:
    """Pairs of answers of different lengths to prompts of different lengths: preferred, rejected, preferred, …"""
    generator = np.random.default_rng(3)
    texts = []
    for index in range(n):
        prompt = (2, *map(int, generator.integers(10, 200, 3 + index)))
        for length in (4 + index, 9 - index % 5):
            answer = tuple(map(int, generator.integers(10, 200, length)))
            texts.append(Encoded(prompt + answer, (False,) * len(prompt) + (True,) * len(answer)))
    return texts


def _model(base: Path) -> model.TunableModel:
    tunable = model.load(base, cpu(), 4, 8.0)
    tunable.initialise(0)
    return tunable


def _moved(tunable: model.TunableModel) -> None:
    """Another state than the first one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tunable.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def _log_probability(tunable: model.TunableModel, text: Encoded) -> Any:
    """Of a text's trained tokens, from all logits."""
    ids = torch.tensor([text.tokens])
    chosen = torch.log_softmax(tunable.logits(tunable.hidden(ids))[0, :-1], dim=-1).gather(1, ids[0, 1:, None])[:, 0]
    return chosen[torch.tensor(text.trained[1:])].sum()


def test_loss_rewards_and_gradient_are_those_of_the_formula(base: Path) -> None:
    tunable, texts = _model(base), _pairs(5)
    with torch.no_grad():
        reference = [_log_probability(tunable, text) for text in texts]
    objective, tally = DirectPreference(tunable, BETA), DirectPreference(tunable, BETA).tally()
    _moved(tunable)
    objective.run_pass(texts, tally, lambda: False, learn=True)
    ours = [parameter.grad.clone() for parameter in tunable.parameters()]

    for parameter in tunable.parameters():
        parameter.grad = None
    rewards = [BETA * (_log_probability(tunable, text) - before) for text, before in zip(texts, reference, strict=True)]
    margins = torch.stack([a - b for a, b in zip(rewards[::2], rewards[1::2], strict=True)])
    plain = -torch.nn.functional.logsigmoid(margins).mean()
    plain.backward()
    margins = margins.detach()

    score = tally.score()
    assert score.loss == pytest.approx(float(plain.detach()), rel=1e-4)
    assert score.reward_margin == pytest.approx(float(margins.mean()), rel=1e-3)
    assert score.reward_accuracy == int((margins > 0).sum()) / 5
    assert (score.token_accuracy, score.sequence_accuracy) == (None, None)
    theirs = [parameter.grad for parameter in tunable.parameters()]
    assert any(gradient.norm() > 0 for gradient in theirs)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_the_first_step_has_the_loss_of_a_coin_and_the_model_is_left_as_it_was(base: Path) -> None:
    tunable = _model(base)
    objective = DirectPreference(tunable, BETA)
    tally = objective.tally()
    objective.run_pass(_pairs(3), tally, lambda: False, learn=False)
    assert tally.score().loss == pytest.approx(np.log(2), rel=1e-6)
    _moved(tunable)
    before = [parameter.detach().clone() for parameter in tunable.parameters()]
    objective.run_pass(_pairs(4), objective.tally(), lambda: False, learn=False)
    assert all(torch.equal(a, b) for a, b in zip(before, tunable.parameters(), strict=True))


def _spec(base: Path, folder: Path) -> JobSpec:
    folder.mkdir()
    tokens.save(folder / "train.npz", _pairs(6))
    tokens.save(folder / "valid.npz", _pairs(2))
    order = {
        "job_id": "ftjob-dpo", "base_gguf": str(base.parent / "tiny.gguf"), "weights_dir": str(base),
        "start_adapter": None, "train": str(folder / "train.npz"), "valid": str(folder / "valid.npz"), "n_epochs": 4,
        "batch_size": 3, "learning_rate": 1e-2, "seed": 7, "checkpoint_seconds": 0, "method": "dpo", "beta": BETA,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(order))
    return JobSpec.read(folder)


def _trained(base: Path, folder: Path, *, stops: bool) -> Path:
    """Train to the end; with `stops`, in a new process after every step, as after kill -9."""
    spec, position = _spec(base, folder), Position()
    while position.step < 8:
        tunable, journal = _model(base), Journal(folder)
        loop = Loop(spec, journal, tunable, tokens.load(spec.train), tokens.load(folder / "valid.npz"))
        if position.step:
            resume.load(folder, position.step, loop.parameters, loop.optimizer)
        asked = iter([*[False] * 4, *[True] * 99] if stops else [False] * 999)
        position = loop.run(position, lambda asked=asked: next(asked))  # type: ignore[misc]
    return folder


def test_an_interrupted_job_has_the_curve_and_the_model_of_one_that_was_not(base: Path, tmp_path: Path) -> None:
    whole, pieces = (_trained(base, tmp_path / name, stops=name == "pieces") for name in ("whole", "pieces"))
    curves = [[row["training_loss"] for row in read_lines(folder / "metrics.jsonl")] for folder in (whole, pieces)]
    assert len(curves[0]) == 8
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    adapters = [gguf_file.read_adapter(folder / "checkpoints/step-8.gguf").layers for folder in (whole, pieces)]
    # a few float16 steps of the file: on some processors sums are rounded by where in memory a tensor lies
    assert all(np.allclose(adapters[0][name][1], adapters[1][name][1], atol=1e-4) for name in adapters[0])


def test_the_curve_has_rewards_that_rise_and_no_accuracy_of_tokens(base: Path, tmp_path: Path) -> None:
    folder = _trained(base, tmp_path / "job", stops=False)
    rows = list(read_lines(folder / "metrics.jsonl"))
    assert rows[-1]["training_reward_margin"] > rows[0]["training_reward_margin"]
    assert rows[-1]["training_loss"] < np.log(2)
    assert rows[-1]["validation_reward_accuracy"] is not None
    assert (rows[-1]["training_token_accuracy"], rows[-1]["elapsed_examples"]) == (None, 24)
    header = metrics_csv(folder).splitlines()[0].split(",")
    assert header[-4:-2] == ["training_reward_accuracy", "training_reward_margin"]
    (checkpoint, *_) = read_lines(folder / "checkpoints.jsonl")
    assert {"train_loss", "train_reward_accuracy", "valid_reward_margin"} <= checkpoint["metrics"].keys()
    assert "Last step: training loss" in (last := [row["message"] for row in read_lines(folder / "events.jsonl")][-1])
    assert "preferred answers rewarded more: " in last


def test_the_job_says_how_many_pairs_it_trains_on(base: Path, tmp_path: Path) -> None:
    run.train(_spec(base, tmp_path / "job"), Journal(tmp_path / "job"), lambda: True)
    messages = [row["message"] for row in read_lines(tmp_path / "job" / "events.jsonl")]
    assert "Training started. Examples: 6, epochs: 4, steps: 8." in messages


_ASKED = {"messages": [{"role": "user", "content": "Name a colour."}]}
_BLUE, _RED = ([{"role": "assistant", "content": text}] for text in ("Blue.", "Red."))


def _line(**changes: Any) -> bytes:
    return json.dumps({"input": _ASKED, "preferred_output": _BLUE, "non_preferred_output": _RED, **changes}).encode()


def test_only_the_two_answers_of_a_line_are_trained() -> None:
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *_ASKED["messages"]]
    example = finetune_format.parse_line(_line(input={"messages": earlier, "parallel_tool_calls": True}))
    assert isinstance(example, finetune_format.Preference)
    assert isinstance(example.preferred, finetune_format.Conversation)
    assert isinstance(example.rejected, finetune_format.Conversation)
    assert [message.trained for message in example.rejected.messages if message.role == "assistant"] == [False, True]
    assert [one.messages[-1].text for one in (example.preferred, example.rejected)] == ["Blue.", "Red."]
    assert finetune_format.format_of(example) == "preference"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"rejected": " Blue."}, "two answers are the same"),
        ({"chosen": " "}, "One of its two answers is empty"),
        ({"rejected": None}, 'There is no text under "rejected"'),
        ({"prompt": 3}, 'There is no text under "prompt"'),
        ({"completion": "Blue."}, "a key that fine-tuning does not accept"),
    ],
)
def test_models_that_continue_a_text_read_the_lines_of_trl(changes: dict[str, Any], says: str | None) -> None:
    line = json.dumps({"prompt": "A colour ->", "chosen": " Blue.", "rejected": " Red.", **changes}).encode()
    if says is not None:
        with pytest.raises(BadLine) as caught:
            finetune_format.parse_line(line)
        assert says in caught.value.sentence
        return
    example = finetune_format.parse_line(line)
    assert finetune_format.format_of(example) == "text_preference"
    assert finetune_format.prompt_and_completion(example) == ("A colour ->", " Blue.")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"non_preferred_output": _BLUE}, "two answers are the same"),
        ({"preferred_output": None}, 'Its "preferred_output" is not a list with one message'),
        ({"preferred_output": [*_BLUE, *_RED]}, 'Its "preferred_output" is not a list with one message'),
        ({"preferred_output": "Blue."}, 'Its "preferred_output" is not a list with one message'),
        ({"non_preferred_output": [{"role": "user", "content": "Red."}]}, 'Its "non_preferred_output" is not a list'),
        ({"preferred_output": [{"role": "assistant", "content": " "}]}, "from the assistant, is empty"),
        ({"input": None}, 'Its "input.messages" is not a non-empty list'),
        ({"input": {"messages": []}}, 'Its "input.messages" is not a non-empty list'),
        ({"input": {"messages": [*_ASKED["messages"], *_BLUE]}}, "The last message of its input is an answer"),
        ({"input": {**_ASKED, "beta": 1}}, "a key that fine-tuning does not accept: 'beta'"),
        ({"messages": _ASKED["messages"]}, "a key that fine-tuning does not accept"),
    ],
)
def test_a_broken_line_says_what_is_wrong(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadLine) as caught:
        finetune_format.parse_line(_line(**changes))
    assert says in caught.value.sentence
