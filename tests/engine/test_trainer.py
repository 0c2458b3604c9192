"""The trainer: arithmetic against plain torch, a whole job on a tiny model, and kill -9 in the middle of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core import packaged_models  # noqa: E402
from core.engine.formats import gguf_file, tokens, weights  # noqa: E402
from core.engine.formats.unusable_model import UnusableModel  # noqa: E402
from core.engine.job_rules import METHODS  # noqa: E402
from core.engine.training.job_folder import JobSpec, Journal, read_lines  # noqa: E402
from core.engine.training.trainer import failure, model  # noqa: E402
from core.engine.training.trainer.device import cpu, is_out_of_memory  # noqa: E402
from core.engine.training.trainer.head import HeadResult, cross_entropy  # noqa: E402
from core.engine.training.trainer.loop import Loop, LossDiverged  # noqa: E402
from core.engine.training.trainer.methods import OBJECTIVES  # noqa: E402
from core.engine.training.trainer.model import LoraLinear  # noqa: E402
from core.engine.training.trainer.objective import Supervised, TokenTally  # noqa: E402
from core.engine.training.trainer.resume import Position, read_position  # noqa: E402
from core.message import cause_of  # noqa: E402
from tests.support.tiny_gemma import write_tiny_gemma  # noqa: E402
from tests.support.waiting import WAIT_LIMIT_S  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its converted weights."""
    folder = tmp_path_factory.mktemp("base")
    gguf = write_tiny_gemma(folder / "tiny.gguf")
    weights.convert(gguf, folder / "weights", lambda _: None)
    return folder


def _examples(n: int = 12, length: int = 24) -> list[tokens.Encoded]:
    generator = np.random.default_rng(0)
    return [
        tokens.Encoded((2, *map(int, generator.integers(10, 200, length))), (False,) * 5 + (True,) * (length - 4))
        for _ in range(n)
    ]


def _job(base: Path, folder: Path, **changes: Any) -> JobSpec:
    folder.mkdir(parents=True, exist_ok=True)
    tokens.save(folder / "train.npz", changes.pop("examples", _examples()))
    order = {
        "job_id": "ftjob-test",
        "base_gguf": str(base / "tiny.gguf"),
        "weights_dir": str(base / "weights"),
        "start_adapter": None,
        "train": str(folder / "train.npz"),
        "valid": None,
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "seed": 7,
        "checkpoint_seconds": 0,
        "dtype": "float32",
        "threads": 1,
        **changes,
    }
    (folder / "job.json").write_text(json.dumps(order))
    return JobSpec.read(folder)


def _head(hidden: Any, weight: Any, labels: Any, *, gradient: bool = True, cap: float | None = None) -> HeadResult:
    return cross_entropy(hidden, weight, labels, tile=cpu().head_tile, gradient=gradient, cap=cap)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "core.engine.training.trainer", str(folder)])


def _finish(folder: Path) -> dict[str, Any]:
    assert _start(folder).wait(WAIT_LIMIT_S) == 0
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def _steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_lines(folder / "metrics.jsonl")]


@pytest.mark.parametrize(("n", "words"), [(1, 50), (7, 4096), (33, 10_001)])
def test_the_head_agrees_with_plain_cross_entropy(n: int, words: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = (torch.randn(n, 32, generator=generator) * 2).requires_grad_()
    weight = torch.randn(words, 32, generator=generator)
    labels = torch.randint(words, (n,), generator=generator)
    logits = hidden @ weight.T
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    plain.sum().backward()

    ours = _head(hidden.detach(), weight, labels)

    assert torch.allclose(ours.loss, plain.detach(), atol=1e-4)
    assert torch.allclose(ours.gradient, hidden.grad, atol=1e-4)
    assert torch.equal(ours.correct, logits.argmax(1) == labels)
    assert _head(hidden.detach(), weight, labels, gradient=False).gradient.numel() == 0


def test_the_head_survives_logits_that_overflow_exp() -> None:
    hidden, weight = torch.full((2, 4), 30.0), torch.eye(4) * 40
    result = _head(hidden, weight, torch.tensor([0, 3]))
    assert torch.isfinite(result.loss).all()
    assert torch.isfinite(result.gradient).all()


def test_a_bfloat16_head_stays_within_a_percent() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(50, 64, generator=generator), torch.randn(5000, 64, generator=generator) / 8
    labels = torch.randint(5000, (50,), generator=generator)
    exact, rounded = _head(hidden, weight, labels), _head(hidden, weight.bfloat16(), labels)
    assert abs(rounded.loss.mean() / exact.loss.mean() - 1) < 0.01
    assert (rounded.gradient - exact.gradient).norm() / exact.gradient.norm() < 0.01


def _pointing(toward: int, low: float, high: float, *, words: int = 10_000, n: int = 96) -> tuple[Any, Any, Any]:
    """Hidden states, bfloat16 head and labels; the logit of the token `toward` places after it is low to high."""
    generator = torch.Generator().manual_seed(4)
    width = 640
    weight = torch.randn(words, width, generator=generator).bfloat16()
    labels = torch.randint(words, (n,), generator=generator)
    rows = weight[(labels + toward) % words].float()
    wanted = torch.linspace(low, high, n)[:, None]
    hidden = torch.randn(n, width, generator=generator) * 0.2
    hidden += rows * (wanted - (hidden * rows).sum(1, keepdim=True)) / rows.square().sum(1, keepdim=True)
    return hidden.bfloat16().float(), weight, labels


def _in_float64(hidden: Any, weight: Any, labels: Any, cap: float | None) -> tuple[Any, Any, Any]:
    """Loss, gradient and hits of the same numbers, in float64."""
    wide = hidden.double().requires_grad_()
    logits = wide @ weight.double().T
    logits = logits if cap is None else torch.tanh(logits / cap) * cap
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1, keepdim=True)
    loss = torch.nn.functional.softplus(others - own, threshold=700)[:, 0]
    loss.sum().backward()
    return loss.detach(), wide.grad, logits.argmax(1) == labels


@pytest.mark.parametrize("cap", [None, 30.0])
@pytest.mark.parametrize(
    ("toward", "low", "high"),
    [
        (0, 35, 50),  # the label is certain: losses from 1e-14 to 0.01
        (0, 18, 35),  # likely, not certain
        (1, 35, 50),  # another token is certain: losses of 20 to 60
        (0, 0, 18),  # one token of many
        (0, -50, -35),  # the label is the least likely token
        (0, 90, 120),  # nothing else has a probability that float32 can hold
    ],
)
def test_a_bfloat16_loss_is_that_of_float64(toward: int, low: float, high: float, cap: float | None) -> None:
    hidden, weight, labels = _pointing(toward, low, high)
    loss, gradient, correct = _in_float64(hidden, weight, labels, cap)
    ours = _head(hidden, weight, labels, cap=cap)
    assert (ours.loss >= 0).all()
    assert (ours.loss - loss).abs().max() < 0.002
    near_zero = (loss < 0.1) & (loss > 1e-12)
    assert ((ours.loss - loss).abs() <= 0.08 * loss)[near_zero].all()
    assert torch.equal(ours.correct, correct)
    assert torch.isfinite(ours.gradient).all()
    assert (ours.gradient - gradient).norm() <= 0.05 * gradient.norm() + 1e-12
    assert torch.equal(_head(hidden, weight, labels, gradient=False, cap=cap).loss, ours.loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_near_zero_keeps_its_digits(dtype: Any) -> None:
    """The label leads by 2 to 40: log-sum-exp minus logit would be 0, or noise, from a lead of 17 on in float32."""
    leads = torch.tensor([2.0, 6.0, 11.0, 16.0, 20.0, 30.0, 40.0])
    weight = torch.eye(3, 8).to(dtype)
    hidden = torch.zeros(len(leads), 8)
    hidden[:, 0], hidden[:, 1], hidden[:, 2] = leads, 0.0, -1000.0
    result = _head(hidden, weight, torch.zeros(len(leads), dtype=torch.int64))
    expected = torch.log1p(torch.exp(-leads.double()))
    assert torch.allclose(result.loss.double(), expected, rtol=1e-5, atol=0)
    pull = expected.expm1() / expected.exp()  # 1 - p(label)
    assert torch.allclose(result.gradient[:, 0].double(), -pull, rtol=1e-4, atol=0)
    assert torch.allclose(result.gradient[:, 1].double(), pull, rtol=5e-3, atol=0)


def test_a_word_as_likely_as_the_label_is_not_correct() -> None:
    result = _head(torch.zeros(2, 4), torch.randn(9, 4), torch.tensor([0, 8]))
    assert not result.correct.any()
    assert torch.allclose(result.loss, torch.full((2,), 9.0).log())


def test_a_hidden_state_that_is_no_number_makes_a_loss_that_is_none() -> None:
    hidden = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0]])
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.isnan(_head(hidden, torch.ones(5, 2, dtype=dtype), torch.tensor([1, 2])).loss).all()


def test_a_lora_layer_has_the_gradients_of_its_formula() -> None:
    torch.manual_seed(3)
    base = torch.nn.Linear(8, 6)
    layer = LoraLinear(base, base.weight.detach(), rank=2, alpha=4.0)
    layer.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 5, 8, requires_grad=True)
    plain_x = x.detach().clone().requires_grad_()
    a, b = layer.lora_a.detach().clone().requires_grad_(), layer.lora_b.detach().clone().requires_grad_()

    out = layer(x)
    plain = (
        base(plain_x).detach() * 0 + plain_x @ base.weight.detach().T + base.bias.detach() + 2.0 * (plain_x @ a.T) @ b.T
    )
    out.square().sum().backward()
    plain.square().sum().backward()

    assert torch.allclose(out, plain, atol=1e-5)
    for ours, theirs in ((x.grad, plain_x.grad), (layer.lora_a.grad, a.grad), (layer.lora_b.grad, b.grad)):
        assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-4)


def test_padding_and_batching_change_nothing(base: Path, tmp_path: Path) -> None:
    tunable = model.load(base / "weights", cpu(), 4, 8.0)
    tunable.initialise(0)
    examples = [example for length in (6, 30, 80, 11) for example in _examples(1, length)]
    spec = _job(base, tmp_path)
    tokens.save(spec.train, examples)
    loop = Loop(spec, Journal(tmp_path), tunable, tokens.load(spec.train), [])
    together = loop.score(examples)
    alone = [(loop.score([example]), sum(example.trained)) for example in examples]
    total = sum(n for _, n in alone)
    assert together.loss == pytest.approx(sum(score.loss * n for score, n in alone) / total, rel=1e-4)
    correct = sum((score.token_accuracy or 0.0) * n for score, n in alone)
    assert together.token_accuracy == pytest.approx(correct / total)


def test_the_sizes_of_a_device_change_no_result(base: Path) -> None:
    """Batches of one example and tiles of 17 tokens give the loss and the gradient of one batch and one tile."""
    examples = [example for length in (6, 30, 80, 11) for example in _examples(1, length)]
    found = []
    for device in (cpu(), replace(cpu(), batch_tokens=1, head_tile=17)):
        tunable = model.load(base / "weights", device, 4, 8.0)
        tunable.initialise(0)
        tally, asked = TokenTally(), list[int]()
        Supervised(tunable).run_pass(examples, tally, lambda asked=asked: bool(asked.append(1)), learn=True)  # type: ignore[misc]
        found.append((len(asked), tally.loss, [p.grad for p in tunable.parameters()]))
    (together, loss, gradients), (alone, small_loss, small_gradients) = found
    assert (together, alone) == (1, 4)
    assert small_loss == pytest.approx(loss, rel=1e-5)
    assert any(gradient.norm() > 0 for gradient in gradients)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(gradients, small_gradients, strict=True))


def test_every_method_of_a_request_has_an_objective() -> None:
    assert tuple(OBJECTIVES) == METHODS


class _Unlearning(Supervised):
    """Steps uphill."""

    def run_pass(
        self, texts: Sequence[tokens.Encoded], tally: TokenTally, stop: Callable[[], bool], *, learn: bool
    ) -> None:
        super().run_pass(texts, tally, stop, learn=learn)
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                parameter.grad.neg_()


def test_what_a_job_learns_is_decided_by_the_objective_of_its_method(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _job(base, tmp_path / "job", n_epochs=6)
    assert spec.method == "supervised"  # a job.json of before the field
    monkeypatch.setitem(OBJECTIVES, "supervised", lambda tunable, _: _Unlearning(tunable))
    tunable = model.load(base / "weights", cpu(), 16, 32.0)
    tunable.initialise(7)
    Loop(spec, Journal(tmp_path / "job"), tunable, tokens.load(spec.train), []).run(Position(), lambda: False)
    losses = [row["training_loss"] for row in read_lines(tmp_path / "job/metrics.jsonl")]
    assert losses[-1] > losses[0]


def test_memory_that_ran_out_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.int8)
    assert is_out_of_memory(caught.value) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("the shapes do not fit"))


def test_a_job_writes_curve_checkpoints_and_model(base: Path, tmp_path: Path) -> None:
    valid = tmp_path / "valid.npz"
    tokens.save(valid, _examples(3))
    _job(base, tmp_path / "job", valid=str(valid), n_epochs=6)
    state = _finish(tmp_path / "job")

    rows = list(read_lines(tmp_path / "job/metrics.jsonl"))
    assert state["status"] == "succeeded"
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert rows[-1]["training_loss"] < rows[0]["training_loss"]
    assert rows[-1]["elapsed_tokens"] == 6 * 12 * 25
    assert rows[-1]["elapsed_examples"] == 6 * 12
    assert [row["step"] for row in rows if row["validation_loss"]] == [3, 6, 9, 12, 15, 18]
    checkpoints = list(read_lines(tmp_path / "job/checkpoints.jsonl"))
    assert [row["step"] for row in checkpoints] == [3, 6, 9, 12, 15, 18]
    assert all(gguf_file.read_adapter(Path(row["path"])).rank == 16 for row in checkpoints)
    assert (tmp_path / "job/final.gguf").exists()


@pytest.mark.parametrize(("examples", "known"), [(3, False), (4, True)])
def test_the_first_step_tells_nothing_about_the_speed(base: Path, tmp_path: Path, examples: int, known: bool) -> None:
    """The first step is not timed: three others are needed for an estimate."""
    _job(base, tmp_path / "job", examples=_examples(examples), n_epochs=1, batch_size=1)
    state = _finish(tmp_path / "job")
    assert state["step"] == examples and (state["tokens_per_s"] is not None) is known


def test_killed_at_any_moment_the_curve_is_whole_and_the_model_the_same(base: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _job(base, whole, n_epochs=20)
    _job(base, killed, n_epochs=20)
    _finish(whole)
    for lives in range(2):
        trainer = _start(killed)
        target = 10 * (lives + 1)
        _wait_for(lambda target=target: len(_steps(killed)) >= target)  # type: ignore[misc]
        trainer.kill()
        trainer.wait()
        assert not (killed / "final.gguf").exists(), "killed too late to prove anything"
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 55, "trai')  # a line cut by the kill
    _finish(killed)

    assert _steps(killed) == list(range(1, 61))
    curve = [[row["training_loss"] for row in read_lines(folder / "metrics.jsonl")] for folder in (whole, killed)]
    assert curve[0] == pytest.approx(curve[1], rel=1e-4)
    first, second = gguf_file.read_adapter(whole / "final.gguf"), gguf_file.read_adapter(killed / "final.gguf")
    for name, (a, _) in first.layers.items():
        assert np.allclose(a, second.layers[name][0], atol=1e-3)


def test_sigterm_pauses_and_a_new_start_goes_on(base: Path, tmp_path: Path) -> None:
    _job(base, tmp_path / "job", n_epochs=40, checkpoint_seconds=1000)
    trainer = _start(tmp_path / "job")
    _wait_for(lambda: len(_steps(tmp_path / "job")) >= 5)
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(WAIT_LIMIT_S) == 0
    state = json.loads((tmp_path / "job/state.json").read_text())
    assert state["status"] == "paused"
    assert read_position(tmp_path / "job").step == state["step"] == _steps(tmp_path / "job")[-1] < 120
    assert _finish(tmp_path / "job")["status"] == "succeeded"
    assert _steps(tmp_path / "job") == list(range(1, 121))


@pytest.mark.parametrize(
    ("asked_at", "saved_step"),
    [
        (1, 0),  # before the first step
        (5, 1),  # in the second step, between its two micro-batches
        (10, 2),  # among the held-out examples after the third step
    ],
)
def test_a_pause_waits_for_no_step_and_for_no_held_out_examples(
    asked_at: int, saved_step: int, base: Path, tmp_path: Path
) -> None:
    valid = tmp_path / "valid.npz"
    tokens.save(valid, _examples(40, 100))  # seven micro-batches
    order = {"valid": str(valid), "examples": _examples(6, 400), "batch_size": 2, "checkpoint_seconds": 1000}
    for name in ("whole", "paused"):
        _job(base, tmp_path / name, **order)
    tunable = model.load(base / "weights", cpu(), 16, 32.0)
    tunable.initialise(7)
    spec = JobSpec.read(tmp_path / "paused")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) >= asked_at

    loop = Loop(spec, Journal(tmp_path / "paused"), tunable, tokens.load(spec.train), tokens.load(valid))
    position = loop.run(Position(dtype="float32"), stop)
    assert (position.step, len(asked), _steps(tmp_path / "paused")) == (
        saved_step,
        asked_at,
        list(range(1, saved_step + 1)),
    )
    assert read_position(tmp_path / "paused") == position

    _finish(tmp_path / "whole")
    _finish(tmp_path / "paused")
    whole, paused = (list(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "paused"))
    assert [row["step"] for row in paused] == [1, 2, 3, 4, 5, 6]
    for measured in ("training_loss", "validation_loss"):
        paused_curve, whole_curve = ([row[measured] or 0.0 for row in rows] for rows in (paused, whole))
        assert paused_curve == pytest.approx(whole_curve, rel=1e-4)


def test_training_goes_on_from_a_tuned_model(base: Path, tmp_path: Path) -> None:
    _job(base, tmp_path / "first", n_epochs=8)
    _finish(tmp_path / "first")
    _job(base, tmp_path / "second", start_adapter=str(tmp_path / "first/final.gguf"))
    _finish(tmp_path / "second")
    first, second = (list(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("first", "second"))
    assert second[0]["training_loss"] < first[0]["training_loss"]
    assert second[0]["training_loss"] == pytest.approx(first[-1]["training_loss"], rel=0.1)


def test_early_stopping_ends_the_job_and_keeps_the_best_epoch(base: Path, tmp_path: Path) -> None:
    tokens.save(tmp_path / "valid.npz", [tokens.Encoded((2, *range(60, 80)), (False,) * 5 + (True,) * 16)])
    _job(
        base, tmp_path / "job", n_epochs=30, valid=str(tmp_path / "valid.npz"), early_stopping=2, warmup=0.1,
        schedule="constant", lora_rank=4, lora_alpha=8.0, learning_rate=0.05,
    )  # fmt: skip
    assert _finish(tmp_path / "job")["status"] == "succeeded"
    losses = {row["step"]: row["metrics"]["valid_loss"] for row in read_lines(tmp_path / "job/checkpoints.jsonl")}
    best = min(losses, key=losses.__getitem__)
    assert len(losses) < 30
    assert list(losses)[-3] == best  # two epochs without a lower loss
    final = gguf_file.read_adapter(tmp_path / "job/final.gguf")
    kept = gguf_file.read_adapter(tmp_path / f"job/checkpoints/step-{best}.gguf")
    assert (final.rank, final.alpha) == (4, 8.0)
    assert all(np.array_equal(b, kept.layers[name][1]) for name, (_, b) in final.layers.items())
    assert _finish(tmp_path / "job")["step"] == max(losses)  # started again, it is still finished


def test_an_adapter_of_another_base_is_refused_in_words(base: Path, tmp_path: Path) -> None:
    a, b = np.ones((16, 9), np.float32), np.ones((9, 16), np.float32)
    foreign = gguf_file.Adapter("gemma3", 32.0, {"blk.0.attn_q": (a, b)})
    gguf_file.write_adapter(tmp_path / "foreign.gguf", foreign)
    _job(base, tmp_path / "job", start_adapter=str(tmp_path / "foreign.gguf"))
    assert _start(tmp_path / "job").wait(WAIT_LIMIT_S) == 1
    state = json.loads((tmp_path / "job/state.json").read_text())
    assert state["status"] == "failed"
    assert "another base" in state["error"]


def test_a_loss_that_is_no_number_stops_the_job(base: Path, tmp_path: Path) -> None:
    tunable = model.load(base / "weights", cpu(), 4, 8.0)
    tunable.initialise(0)
    next(iter(tunable.lora.values())).lora_b.data.fill_(float("nan"))
    spec = _job(base, tmp_path)
    with pytest.raises(LossDiverged, match="step 1"):
        Loop(spec, Journal(tmp_path), tunable, tokens.load(spec.train), []).run(Position(), lambda: False)


def test_adapters_survive_a_round_trip(tmp_path: Path) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float16)
    adapter = gguf_file.Adapter("gemma3", 32.0, {"blk.1.ffn_up": (a, b.T.copy())})
    gguf_file.write_adapter(tmp_path / "x.gguf", adapter)
    back = gguf_file.read_adapter(tmp_path / "x.gguf")
    assert (back.architecture, back.alpha, back.rank) == ("gemma3", 32.0, 16)
    assert np.array_equal(back.layers["blk.1.ffn_up"][1], b.T)


def _adapter_bytes(path: Path, **matrices: np.ndarray[Any, Any]) -> bytes:
    """An adapter's file whose one layer has these matrices, a and b."""
    layers = {"blk.0.ffn_up": (matrices["a"], matrices["b"])} if matrices else {}
    gguf_file.write_adapter(path, gguf_file.Adapter("gemma3", 32.0, layers))
    return path.read_bytes()


def test_a_file_that_is_no_whole_adapter_is_an_error_in_words(base: Path, tmp_path: Path) -> None:
    whole = _adapter_bytes(tmp_path / "x.gguf", a=np.ones((4, 8)), b=np.ones((8, 4)))
    contents = {
        "a model": (base / "tiny.gguf").read_bytes(),
        "without layers": _adapter_bytes(tmp_path / "x.gguf"),
        "of rank 0": _adapter_bytes(tmp_path / "x.gguf", a=np.ones((0, 8)), b=np.ones((8, 0))),
        "of two ranks": _adapter_bytes(tmp_path / "x.gguf", a=np.ones((4, 8)), b=np.ones((8, 2))),
        "with one matrix": whole.replace(b"lora_b", b"lora_c"),
        "without alpha": whole.replace(b"lora.alpha", b"lora.alphx"),
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "a text": b"not a file of llama.cpp",
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(UnusableModel, match=rf"not a LoRA adapter \({name}.gguf\)") as caught:
            gguf_file.read_adapter(path)
        error, next_step = failure.describe(caught.value)
        assert (error, cause_of(error), next_step) == (caught.value.reason, "model_not_found", caught.value.next_step)
    with pytest.raises(FileNotFoundError):
        gguf_file.read_adapter(tmp_path / "gone.gguf")


def test_encode_learns_trained_segments_and_the_end() -> None:
    example = tokens.SegmentedExample((("ab", False), ("cd", True)))
    encoded = tokens.encode(example, lambda text: [ord(char) for char in text], bos=2, eos=1)
    assert encoded.tokens == (2, 97, 98, 99, 100, 1)
    assert encoded.trained == (False, False, False, True, True, True)


def test_examples_come_back_from_the_file_as_they_went(tmp_path: Path) -> None:
    examples = _examples(3, 5) + _examples(1, 9)
    assert tokens.save(tmp_path / "train.npz", iter(examples)) == sum(len(example.tokens) for example in examples)
    back = tokens.load(tmp_path / "train.npz")
    assert list(back) == examples and back[-1] == examples[-1] and back[1:3] == examples[1:3]
    with pytest.raises(IndexError):
        back[4]


@pytest.mark.parametrize(
    ("entry", "says"), [("name-without-path", "is not name="), ("x=/nowhere/model.gguf", "there is no file")]
)
def test_a_wrong_list_of_models_says_what_is_wrong(entry: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        weights.available(tmp_path, {"FABULA_ENGINE_MODELS": entry})


def test_the_packaged_base_is_the_one_we_know(tmp_path: Path) -> None:
    path = weights.ensure_gguf(packaged_models.BASE, tmp_path, {})
    assert path.stat().st_size > 200_000_000
    assert weights.ensure_gguf(packaged_models.BASE, tmp_path, {}) == path
