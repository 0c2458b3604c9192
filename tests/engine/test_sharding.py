"""Base models whose layers are split over processes: the same figures as whole, and what is done if memory is short."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from safetensors import safe_open  # noqa: E402

from core.engine.formats import gguf_file, tokens, weights  # noqa: E402
from core.engine.formats.hf_folder import StoredTensor  # noqa: E402
from core.engine.launcher_settings import Shard  # noqa: E402
from core.engine.training.job_folder import read_lines  # noqa: E402
from core.engine.training.trainer import frozen, memory, model, resume  # noqa: E402
from core.engine.training.trainer.device import Device, cpu  # noqa: E402
from core.engine.training.trainer.memory import DoesNotFit, WeightPlan  # noqa: E402
from core.engine.training.trainer.ranks import Alone  # noqa: E402
from tests.support.engine_process import ROOT  # noqa: E402
from tests.support.tiny_folders import FAMILIES  # noqa: E402
from tests.support.tiny_gemma import write_tiny_gemma  # noqa: E402
from tests.support.waiting import WAIT_LIMIT_S  # noqa: E402

_SPLIT = "The base model's layers are split over 2 processes."
_RATES = {"supervised": 5e-3, "dpo": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its converted weights."""
    folder = tmp_path_factory.mktemp("base")
    weights.convert(write_tiny_gemma(folder / "tiny.gguf"), folder / "weights", lambda _: None)
    return folder


def _texts(n: int, seed: int = 0) -> list[tokens.Encoded]:
    """Texts of very different lengths, so that the processes have different numbers of micro-batches."""
    random = np.random.default_rng(seed)
    lengths = [int(random.integers(8, 30)) if index % 3 else 400 for index in range(n)]
    return [
        tokens.Encoded((2, *map(int, random.integers(10, 200, length))), (False,) * 5 + (True,) * (length - 4))
        for length in lengths
    ]


def _job(folder: Path, base: Path, method: str, **changes: Any) -> Path:
    folder.mkdir()
    tokens.save(folder / "train.npz", _texts(14))  # the last batch of an epoch has one example or pair
    tokens.save(folder / "valid.npz", _texts(6, seed=1))
    spec = {
        "job_id": "ftjob-test", "base_gguf": str(base / "tiny.gguf"), "weights_dir": str(base / "weights"),
        "start_adapter": None, "train": str(folder / "train.npz"), "valid": str(folder / "valid.npz"), "n_epochs": 2,
        "batch_size": {"supervised": 13, "dpo": 3}[method], "learning_rate": _RATES[method], "seed": 7,
        "dtype": "float32", "threads": 1, "method": method, **changes,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(spec))
    return folder


def _train(
    store: Path, size: int, folders: Sequence[Path], *options: str, program: str = "tests.support.rank"
) -> list[int]:
    """Train the jobs with `size` processes; their exit codes."""
    command = [sys.executable, "-m", program]
    processes = [
        subprocess.Popen([*command, str(rank), str(size), str(store), *map(str, folders), *options], cwd=ROOT)
        for rank in range(size)
    ]
    return [process.wait(WAIT_LIMIT_S) for process in processes]


def _assert_same(one: Path, other: Path) -> None:
    a, b = (list(read_lines(folder / "metrics.jsonl")) for folder in (one, other))
    assert len(a) == len(b) >= 4
    for name in ("training_loss", "validation_loss", "elapsed_tokens", "elapsed_examples"):
        x, y = ([row[name] for row in rows if row[name] is not None] for rows in (a, b))
        assert y == pytest.approx(x, abs=1e-4), name
    models = [gguf_file.read_adapter(folder / "final.gguf").layers for folder in (one, other)]
    assert models[0].keys() == models[1].keys()
    assert all(np.allclose(models[0][name][1], models[1][name][1], atol=1e-4) for name in models[0])


def _events(folder: Path) -> list[str]:
    return [row["message"] for row in read_lines(folder / "events.jsonl")]


def test_split_over_two_processes_a_job_has_the_curve_and_the_model_of_one(base: Path, tmp_path: Path) -> None:
    alone, split = ([_job(tmp_path / f"{method}-{size}", base, method) for method in _RATES] for size in (1, 2))
    assert _train(tmp_path / "store-1", 1, alone) == [0]
    assert _train(tmp_path / "store-2", 2, split, "--shard", "always") == [0, 0]
    for one, two in zip(alone, split, strict=True):
        _assert_same(one, two)
        assert _SPLIT in _events(two)
        assert _SPLIT not in _events(one)


def test_a_split_job_that_was_stopped_goes_on_split_or_whole(base: Path, tmp_path: Path) -> None:
    alone, split, whole = (_job(tmp_path / name, base, "dpo") for name in ("alone", "split", "whole"))
    assert _train(tmp_path / "store-1", 1, [alone]) == [0]
    assert _train(tmp_path / "store-2", 2, [split, whole], "--shard", "always", "--stop-after", "3") == [0, 0]
    with safe_open(split / resume.FILE, "pt") as ours, safe_open(whole / resume.FILE, "pt") as theirs:
        assert resume.read_position(split).step == resume.read_position(whole).step == 3
        assert all(torch.equal(ours.get_tensor(name), theirs.get_tensor(name)) for name in ours.keys())  # noqa: SIM118
    assert _train(tmp_path / "store-3", 2, [split], "--shard", "always") == [0, 0]
    assert _train(tmp_path / "store-4", 1, [whole]) == [0]
    for folder in (split, whole):
        _assert_same(alone, folder)
        assert any(message.startswith("Resuming from step 3 ") for message in _events(folder))


def test_split_layers_of_every_family_have_the_gradients_of_whole_ones(tmp_path: Path) -> None:
    folders = [tiny.write(tmp_path / str(n) / "model") for n, tiny in enumerate(FAMILIES.values())]
    assert _train(tmp_path / "store", 2, folders, program="tests.support.split_gradients") == [0, 0]


def test_a_base_that_fits_only_if_it_is_split_is_split(tmp_path: Path) -> None:
    weights.convert(write_tiny_gemma(tmp_path / "tiny.gguf", layers=8), tmp_path / "weights", lambda _: None)
    jobs = [_job(tmp_path / name, tmp_path, "supervised", lora_rank=1, lora_alpha=2.0, batch_size=4) for name in "abc"]
    for job in jobs:
        tokens.save(job / "train.npz", [text for text in _texts(14) if len(text.tokens) < 50])
    alone, split, failed = jobs
    assert _train(tmp_path / "store-1", 1, [alone]) == [0]
    assert _train(tmp_path / "store-2", 2, [split], "--shard", "auto", "--free", "4400000") == [0, 0]
    assert _SPLIT in _events(split)
    assert any("activations are computed twice" in message for message in _events(split))
    _assert_same(alone, split)
    assert 0 not in _train(tmp_path / "store-3", 2, [failed], "--shard", "auto", "--free", "1000000")
    state = json.loads((failed / "state.json").read_text())
    assert state["error"].startswith("Training needs 0.004 GB of memory in each of 2 processes")
    assert state["next_step"].startswith("Choose a smaller base model")  # as for fewer bits, which may be installed


# 20 layers of 1 MB in float32, and an embedding of 4 MB: whole 24 MB, split over four 12 MB, with the adapter
_STORED = {
    "model.embed_tokens.weight": StoredTensor(Path(), 0, "F32", (2000, 500)),
    **{f"model.layers.{n}.mlp.up_proj.weight": StoredTensor(Path(), 0, "F32", (500, 500)) for n in range(20)},
}


@dataclass
class _Several(Alone):
    """Processes that decide as this one does."""

    size: int = 4


@pytest.mark.parametrize(
    ("shard", "free", "expected"),
    [
        ("never", 25, WeightPlan(16, split=False)),
        ("auto", 25, WeightPlan(16, split=False)),
        ("always", 25, WeightPlan(16, split=True)),
        ("never", 12, WeightPlan(8, split=False)),
        ("auto", 12, WeightPlan(16, split=True)),
        ("auto", 10, WeightPlan(8, split=False)),
        ("auto", 7, WeightPlan(8, split=True)),
        ("always", 6, WeightPlan(4, split=True)),
        ("never", 5, "Choose a smaller base model: at most about 0.005 GB."),
        ("auto", 5, "Choose a smaller base model: at most about 0.010 GB."),
    ],
)
def test_a_base_is_split_before_its_weights_get_fewer_bits(
    shard: Shard, free: int, expected: WeightPlan | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "can_quantise", lambda: True)
    monkeypatch.setattr(Device, "free_bytes", lambda _: int(free * 10**6 / 0.9))
    if isinstance(expected, WeightPlan):
        assert memory.plan_weights(_STORED, cpu(), 1, _Several(), shard) == expected
    else:
        with pytest.raises(DoesNotFit) as caught:
            memory.plan_weights(_STORED, cpu(), 1, _Several(), shard)
        assert caught.value.next_step == expected


def test_without_fewer_bits_more_processes_are_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "can_quantise", lambda: False)
    monkeypatch.setattr(Device, "free_bytes", lambda _: int(8e6 / 0.9))
    with pytest.raises(DoesNotFit, match=r"0\.011 GB of memory in each of 4 processes") as caught:
        memory.plan_weights(_STORED, cpu(), 1, _Several(), "auto")
    assert caught.value.next_step.startswith("Use at least 14 processes with as much memory each (FABULA_RAY_WORKERS)")
    with pytest.raises(DoesNotFit, match=r"weights and the adapter need 0\.024 GB"):
        memory.plan_weights(_STORED, cpu(), 1, _Several(), "never")


def test_only_the_adapter_is_trainable(base: Path) -> None:
    tunable = model.load(base / "weights", cpu(), 4, 8.0)
    trainable = {id(parameter) for parameter in tunable.body.parameters() if parameter.requires_grad}
    assert trainable == set(map(id, tunable.parameters()))


@pytest.mark.parametrize("processes", [1, 4])
def test_processes_of_one_machine_share_its_memory(processes: int) -> None:
    free = replace(cpu(), processes=processes).free_bytes()
    assert free == pytest.approx(cpu().free_bytes() / processes, rel=0.5)
