"""Devices of the trainer: what is chosen, and that their own ways of computing give the same figures.

GPUs: only where PyTorch finds one. What is written for them is also run on the CPU here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.engine.bases.machine import activation_bytes  # noqa: E402
from core.engine.formats import hf_folder, tokens, weights  # noqa: E402
from core.engine.formats.tokens import Encoded  # noqa: E402
from core.engine.job_rules import TRAINING_DEVICE_SETTING, training_device  # noqa: E402
from core.engine.training.job_folder import JobSpec, Journal, read_lines  # noqa: E402
from core.engine.training.trainer import device, frozen, gpu_head, head, memory, model, run  # noqa: E402
from core.engine.training.trainer.device import Device, DeviceMissing, cpu  # noqa: E402
from core.engine.training.trainer.memory import DoesNotFit, WeightPlan  # noqa: E402
from core.engine.training.trainer.objective import Supervised  # noqa: E402
from core.errors import BadSettings  # noqa: E402
from core.setting_fields import checked  # noqa: E402
from tests.support.tiny_gemma import write_tiny_gemma  # noqa: E402

_WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
_WITH_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its converted weights."""
    folder = tmp_path_factory.mktemp("base")
    gguf = write_tiny_gemma(folder / "tiny.gguf")
    weights.convert(gguf, folder / "weights", lambda _: None)
    return folder


def _texts(lengths: tuple[int, ...] = (6, 30, 80, 11)) -> list[Encoded]:
    random = np.random.default_rng(0)
    return [
        Encoded((2, *map(int, random.integers(10, 200, length - 1))), (False,) * 2 + (True,) * (length - 2))
        for length in lengths
    ]


def _learned(tunable: model.TunableModel) -> tuple[float, list[Any]]:
    """Loss and gradients of one pass."""
    tunable.initialise(0)
    objective = Supervised(tunable)
    tally = objective.tally()
    objective.run_pass(_texts(), tally, lambda: False, learn=True)
    return tally.score().loss, [parameter.grad.cpu() for parameter in tunable.parameters()]


def _assert_same(a: tuple[float, list[Any]], b: tuple[float, list[Any]]) -> None:
    assert a[0] == pytest.approx(b[0], rel=1e-5)
    assert any(gradient.norm() > 0 for gradient in a[1])
    assert all(torch.allclose(x, y, atol=1e-5, rtol=1e-3) for x, y in zip(a[1], b[1], strict=True))


@pytest.mark.parametrize("value", ["gpu", "cuda:x", "1"])
def test_a_device_that_does_not_exist_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(BadSettings, match=TRAINING_DEVICE_SETTING):
        checked({TRAINING_DEVICE_SETTING: value})
    with pytest.raises(ValueError, match=TRAINING_DEVICE_SETTING):
        training_device({TRAINING_DEVICE_SETTING: value})


@pytest.mark.parametrize(("value", "found"), [("", "auto"), (" CUDA ", "cuda"), ("mps", "mps"), ("cpu", "cpu")])
def test_the_device_is_read_the_same_everywhere(value: str, found: str) -> None:
    assert training_device({TRAINING_DEVICE_SETTING: value}) == found
    assert checked({TRAINING_DEVICE_SETTING: value}).training_device == found


def _job(base: Path, folder: Path) -> JobSpec:
    tokens.save(folder / "train.npz", _texts())
    job = {
        "job_id": "ftjob-test",
        "base_gguf": str(base / "tiny.gguf"),
        "weights_dir": str(base / "weights"),
        "start_adapter": None,
        "train": str(folder / "train.npz"),
        "valid": None,
        "n_epochs": 1,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "seed": 1,
    }
    (folder / "job.json").write_text(json.dumps(job))
    return JobSpec.read(folder)


def test_a_job_says_once_what_it_is_computed_on(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_kind", lambda _: "cuda")
    monkeypatch.setattr(device, "_gpu", lambda *_: cpu())
    run.train(_job(base, tmp_path), Journal(tmp_path), lambda: True)
    messages = [row["message"] for row in read_lines(tmp_path / "events.jsonl")]
    assert [message for message in messages if message.startswith("Computing")] == ["Computing on cpu in float32."]


@_WITHOUT_CUDA
def test_a_job_on_a_device_that_is_absent_fails_with_what_to_do(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceMissing):
        device.choose("auto", 1, lambda _: None, "cuda")
    _job(base, tmp_path)
    command = [sys.executable, "-m", "core.engine.training.trainer", str(tmp_path)]
    environ = {"PATH": "", "PYTHONPATH": str(Path.cwd()), TRAINING_DEVICE_SETTING: "cuda"}
    assert subprocess.run(command, env=environ, check=False).returncode == 1
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["status"], state["error"]) == (
        "failed",
        f"{TRAINING_DEVICE_SETTING} asks for cuda, but PyTorch cannot use it here.",
    )
    assert "set FABULA_ENGINE_DEVICE to cpu" in state["next_step"]


@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("tile", [7, 64, 1000])
def test_the_head_of_gpus_has_the_figures_of_that_of_processors(cap: float | None, tile: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(33, 16, generator=generator) * 3, torch.randn(200, 16, generator=generator)
    labels = torch.randint(0, 200, (33,), generator=generator)
    ours = gpu_head.cross_entropy(hidden, weight, labels, tile=tile, cap=cap)
    theirs = head.cross_entropy(hidden, weight, labels, tile=64, cap=cap)
    assert torch.allclose(ours.loss, theirs.loss, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.correct, theirs.correct)
    assert torch.allclose(ours.gradient, theirs.gradient, atol=1e-4, rtol=1e-3)
    assert not gpu_head.cross_entropy(hidden, weight, labels, tile=tile, gradient=False, cap=cap).gradient.numel()


def test_activations_that_are_computed_twice_change_nothing(base: Path) -> None:
    plain, twice = (model.load(base / "weights", cpu(), 4, 8.0) for _ in range(2))
    twice.checkpoint_activations()
    counted = list[int]()
    for part in twice.body.modules():
        if isinstance(part, model.LoraLinear):
            part.register_forward_pre_hook(lambda *_: counted.append(1))
    _assert_same(_learned(twice), _learned(plain))
    assert len(counted) == 2 * len(twice.lora)  # forward, and again in the backward pass
    assert not any(part.training for part in twice.body.modules())  # dropout stays off


def test_on_the_cpu_only_the_parts_of_mlps_are_computed_twice(base: Path) -> None:
    tunable = model.load(base / "weights", cpu(), 4, 8.0)
    counted = Counter[str]()
    for name, part in tunable.body.named_modules():
        if isinstance(part, model.LoraLinear):
            part.register_forward_pre_hook(lambda *_, name=name: counted.update([name]))
    kept = _learned(tunable)
    assert {"mlp" in name: n for name, n in counted.items()} == {True: 2, False: 1}
    plain = model.load(base / "weights", cpu(), 4, 8.0)
    for layer in plain.body.layers:
        del layer.mlp.forward
    _assert_same(kept, _learned(plain))


def test_memory_decides_how_activations_are_kept(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tunable = model.load(base / "weights", cpu(), 4, 8.0)
    whole = activation_bytes(tunable.n_layers, tunable.width, cpu().batch_tokens)
    monkeypatch.setattr(Device, "free_bytes", lambda _: 2 * whole)
    assert not memory.plan_activations(tunable, _texts(), 1)
    monkeypatch.setattr(Device, "free_bytes", lambda _: whole)  # less than 90 % must be used
    assert memory.plan_activations(tunable, _texts(), 1)
    assert tunable.device.batch_tokens == cpu().batch_tokens
    per_token = activation_bytes(1, tunable.width, 1) + 4 * tunable.n_layers * tunable.width
    monkeypatch.setattr(Device, "free_bytes", lambda _: 200 * per_token)  # more than an example, less than a batch
    assert memory.plan_activations(tunable, _texts(), 1)
    assert 80 <= tunable.device.batch_tokens <= 200 and tunable.device.row_tokens <= 200
    monkeypatch.setattr(Device, "free_bytes", lambda _: 600_000)
    with pytest.raises(DoesNotFit) as caught:
        memory.plan_activations(tunable, _texts(), 1)
    assert "The longest example has 80 tokens" in caught.value.reason
    assert "examples of at most about" in caught.value.next_step
    with pytest.raises(DoesNotFit, match="The longest example has 91 tokens"):
        memory.plan_activations(tunable, _texts(), 2)  # a pair's two texts are computed together


def test_a_base_that_does_not_fit_is_refused_with_what_would_fit(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = hf_folder.read_tensors(base / "weights")
    assert memory.plan_weights(stored, cpu(), 4) == WeightPlan(16, split=False)
    size = sum(int(np.prod(tensor.shape)) * 4 for tensor in stored.values())
    monkeypatch.setattr(frozen, "can_quantise", lambda: False)
    monkeypatch.setattr(Device, "free_bytes", lambda _: size)
    with pytest.raises(DoesNotFit) as caught:
        memory.plan_weights(stored, cpu(), 4)
    assert "requirements-gpu.txt" in caught.value.next_step and "8-bit" in caught.value.next_step
    monkeypatch.setattr(frozen, "can_quantise", lambda: True)
    assert memory.plan_weights(stored, cpu(), 4) == WeightPlan(8, split=False)
    monkeypatch.setattr(Device, "free_bytes", lambda _: 1000)
    with pytest.raises(DoesNotFit) as caught:
        memory.plan_weights(stored, cpu(), 4)
    assert "Choose a smaller base model" in caught.value.next_step


@pytest.mark.parametrize(("bits", "near"), [(8, 0.02), (4, 0.2)])
def test_frozen_matrices_in_fewer_bits_stay_near(bits: Any, near: float, base: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="requirements-gpu.txt is not installed")
    whole = model.load(base / "weights", cpu(), 4, 8.0)
    fewer = model.load(base / "weights", cpu(), 4, 8.0, bits)
    loss, gradients = _learned(fewer)
    assert loss == pytest.approx(_learned(whole)[0], rel=near)
    assert any(gradient.norm() > 0 for gradient in gradients)


@_WITH_CUDA
def test_cuda_has_the_loss_of_the_processor_and_waits_for_nothing_within_the_head(base: Path) -> None:
    on_gpu = model.load(base / "weights", device.choose("float32", 0, lambda _: None, "cuda"), 4, 8.0)
    _assert_same(_learned(on_gpu), _learned(model.load(base / "weights", cpu(), 4, 8.0)))
    hidden = torch.randn(64, on_gpu.width, device="cuda")
    labels = torch.zeros(64, dtype=torch.int64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpu_head.cross_entropy(hidden, on_gpu.head, labels, tile=64)
    finally:
        torch.cuda.set_sync_debug_mode("default")
