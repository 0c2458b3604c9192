"""The **Advanced** part of a new job, from its form to the page of the job."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.evaluation import run_export
from core.finetuning import job_views, jobs
from core.settings import Settings
from pages.ui import cache
from tests.support import engine_process
from tests.support.app_pages import again, click, field, next_step, visit, words
from tests.support.engine_process import TINY, TOKEN
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_job
from tests.support.tiny_models import TinyModel
from tests.support.waiting import run_to_end, until

_OPTIONS = {"lora_rank": 4, "lora_alpha": 8.0, "warmup": 0.1, "schedule": "cosine", "early_stopping": 2}
_ENGINE = {"base": "writer", "format": "both", "not_trainable": None, "context": 512, "parallel": 4}
_DEFAULTS = {"lora_rank": 8, "lora_alpha": 32.0, "learning_rate": 0.0005}


@pytest.fixture
def sample(store: Store) -> str:
    """27 training rows, of which a tenth is kept for validation."""
    return datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)


def _second_step(locale: str = "en-US") -> AppTest:
    return next_step(visit("training", locale, training_part="new"))


def _set(at: AppTest, **values: Any) -> AppTest:
    """Type into the form; a number ends `automatic` first."""
    for key, value in values.items():
        if key in ("training_rank", "training_alpha"):
            at.toggle(key=f"{key}_auto").set_value(False).run()
        field(at, key).set_value(value).run()
    assert not at.exception
    return at


def _everything(at: AppTest) -> AppTest:
    return _set(
        at, training_rank=4, training_alpha="8", training_warmup=10, training_schedule="cosine",
        training_early_stopping=True, training_patience=2,
    )  # fmt: skip


def _submitted(at: AppTest, store: Store) -> job_views.JobView:
    click(next_step(at), "training_submit")
    return job_views.list_jobs(store)[0]


def _without(found: str, *texts: str) -> bool:
    return not any(text in found for text in texts)


def test_a_job_with_the_defaults_names_none_of_them(server: FaultServer, store: Store, sample: str) -> None:
    server.models[0]["fabula"] = {**_ENGINE, "training": _DEFAULTS}
    at = _second_step()
    assert at.toggle(key="training_rank_auto").label == "LoRA rank: automatic (8)"
    assert at.toggle(key="training_alpha_auto").label == "LoRA alpha: automatic (32)"
    assert "a learning rate of 5.0e-04 for this model" in words(at)
    assert _submitted(at, store).hyperparameters == {}


def test_what_differs_from_the_defaults_is_shown_before_the_button_and_sent(
    server: FaultServer, store: Store, sample: str
) -> None:
    server.models[0]["fabula"] = {**_ENGINE, "training": _DEFAULTS}
    at = _everything(_second_step())
    summary = (
        "LoRA rank: 4 (default: 8) · LoRA alpha: 8 (default: 32) · Warm-up: 10 % of the steps · "
        "Schedule of the learning rate: cosine · Early stopping: after 2 epochs without a lower validation loss"
    )
    assert summary in words(at)
    assert "the job may end sooner" in words(at)
    next_step(at)
    assert summary in words(at)
    click(at, "training_submit")
    assert job_views.list_jobs(store)[0].hyperparameters == _OPTIONS


def test_a_value_equal_to_the_default_is_no_difference(server: FaultServer, store: Store, sample: str) -> None:
    server.models[0]["fabula"] = {**_ENGINE, "training": _DEFAULTS}
    at = _set(_second_step(), training_rank=8, training_warmup=0, training_schedule="linear")
    assert "LoRA rank: 8" not in words(at)
    assert _submitted(at, store).hyperparameters == {"lora_rank": 8}


def test_a_number_out_of_range_is_told_in_the_form(server: FaultServer, sample: str) -> None:
    at = _set(_second_step(), training_rank=300, training_warmup=80)
    assert (field(at, "training_rank").value, field(at, "training_warmup").value) == (256, 50)
    assert "Allowed: 1 to 256" in words(at) and "Allowed: 0 to 50" in words(at)
    _set(at, training_alpha="0.5")
    assert at.button(key="training_next").disabled
    _set(at, training_alpha="64")
    assert not at.button(key="training_next").disabled


def test_without_rows_for_validation_a_job_cannot_stop_early(server: FaultServer, store: Store, sample: str) -> None:
    at = visit("training", training_part="new")
    at.select_slider(key=f"training_share_{sample}").set_value(0).run()
    next_step(at)
    assert at.toggle(key="training_early_stopping").disabled
    assert "choose a share in the first step" in words(at)
    assert "early_stopping" not in _submitted(at, store).hyperparameters


def test_a_tuned_model_keeps_its_rank_and_alpha(server: FaultServer, store: Store, sample: str) -> None:
    server.models[0]["id"] = "ft:base:fabula:x:1"
    server.models[0]["fabula"] = {**_ENGINE, "base": "base", "training": {**_DEFAULTS, "lora_rank": None}}
    at = _set(_second_step(), training_schedule="constant")
    assert "this model keeps the ones it was trained with" in words(at)
    assert not [one for one in at.toggle if one.key in ("training_rank_auto", "training_alpha_auto")]
    assert _submitted(at, store).hyperparameters == {"schedule": "constant"}


@pytest.mark.parametrize(
    ("base", "advice"), [("writer", "use more for small additions"), ("other", "use a higher rate")]
)
def test_the_advice_for_tuned_models_is_not_given_for_a_base(
    server: FaultServer, sample: str, base: str, advice: str
) -> None:
    server.models[0]["fabula"] = {**_ENGINE, "base": base}
    assert advice in words(_second_step())


def test_duplicate_job_carries_the_options(server: FaultServer, store: Store, sample: str) -> None:
    first = _submitted(_everything(_second_step()), store)
    at = next_step(click(visit("training"), "training_again"))
    assert field(at, "training_rank").value == 4 and field(at, "training_alpha").value == "8"
    assert field(at, "training_patience").value == 2 and field(at, "training_schedule").value == "cosine"
    second = _submitted(_set(at, training_warmup=20), store)
    assert second.id != first.id
    assert second.hyperparameters == {**_OPTIONS, "warmup": 0.2}


def test_the_page_of_a_job_and_its_export_show_the_options(server: FaultServer, store: Store, sample: str) -> None:
    job_id = put_job(store, status="succeeded", dataset_id=sample, hyperparameters=_OPTIONS)
    at = visit("training", training_open=(job_id,), training_tab="settings")
    rows = {str(name): value for table in at.table for name, value in table.value.iloc[:, 0].items()}
    assert rows["LoRA rank"] == "4" and rows["LoRA alpha"] == "8"
    assert rows["Warm-up"] == "10 % of the steps"
    assert rows["Schedule of the learning rate"] == "cosine"
    assert rows["Early stopping"] == "after 2 epochs without a lower validation loss"
    with zipfile.ZipFile(io.BytesIO(run_export.run_zip(store, job_id))) as archive:
        assert json.loads(archive.read("settings.json"))["hyperparameters"] == _OPTIONS
        assert json.loads(archive.read("lineage.json"))[0]["hyperparameters"] == _OPTIONS
        assert "lora\\_rank 4" in archive.read("README.md").decode()


def test_a_comparison_marks_the_options_that_differ(server: FaultServer, store: Store, sample: str) -> None:
    one = put_job(store, status="succeeded", dataset_id=sample, hyperparameters=_OPTIONS, name="one")
    two = put_job(
        store, status="succeeded", dataset_id=sample, hyperparameters={**_OPTIONS, "lora_rank": 16}, name="two"
    )
    at = visit("training", training_open=(one, two))
    settings = at.table[1].value
    assert sorted(settings.loc[":orange[≠] **LoRA rank**"]) == ["16", "4"]
    assert list(settings.loc["Warm-up"]) == ["10 % of the steps", "10 % of the steps"]
    plain = put_job(store, status="succeeded", dataset_id=sample, name="plain")
    without = visit("training", training_open=(plain, put_job(store, status="succeeded", dataset_id=sample)))
    assert not [name for name in without.table[1].value.index if "LoRA" in name]


def test_the_form_is_in_chinese(server: FaultServer, store: Store, sample: str) -> None:
    at = _second_step("zh-CN")
    labels = "\n".join(one.label for one in (*at.toggle, *at.selectbox, *at.number_input))
    assert "LoRA 秩" in labels
    assert _without(labels, "LoRA rank", "Warm-up", "Early stopping")
    assert "线性" in field(at, "training_schedule").options


# --- with a real engine ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[engine_process.EngineUnderTest]:
    pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
    folder = tmp_path_factory.mktemp("options")
    base = TinyModel("qwen3").write(folder / "tiny.gguf")
    with engine_process.running(folder / "home", base) as started:
        yield started


def test_a_job_with_all_options_stops_early_and_its_page_says_so(
    engine: engine_process.EngineUnderTest, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random texts cannot be predicted, so the validation loss rises after a few epochs at a high rate."""
    monkeypatch.setenv("FABULA_ENGINE_URL", engine.url.removesuffix("/v1"))
    monkeypatch.setenv("FABULA_ENGINE_TOKEN", TOKEN)
    frame = pd.DataFrame([(f"hero {n}", f"{n * n * 7919 % 1009} came.") for n in range(20)], columns=["topic", "text"])
    dataset_id = datasets.from_frame(store, LOCAL, "numbers", frame, ["topic"], "text", "upload")
    cache.refresh()
    at = visit("training", training_part="new", training_dataset=dataset_id, training_base=f"engine/{TINY}")
    at = _everything(next_step(at))
    _set(at, training_epochs_auto=False)
    _set(at, training_epochs=50, training_rate_auto=False)
    _set(at, training_rate="60")
    job = _submitted(at, store)
    assert job.hyperparameters == {"n_epochs": 50, "learning_rate_multiplier": 60.0, **_OPTIONS}

    run_to_end(lambda: jobs.carry_out(store, cache.registry(), job.id), lambda seconds: False)
    done = job_views.get(store, job.id)
    assert done.status == "succeeded", done.error
    used = engine.http().get(f"/v1/fine_tuning/jobs/{done.remote_id}").json()["fabula"]["hyperparameters"]
    assert used == _OPTIONS

    at = visit("training", training_open=(job.id,))
    until(lambda: "Stopped early at step" in words(at) or not again(at), "the sentence about the end")
    assert "Epochs without a lower validation loss: 2." in words(at)
    assert "The model is the checkpoint of step" in words(at)
    chinese = visit("training", "zh-CN", training_open=(job.id,))
    assert "提前停止：连续 2 轮验证损失没有下降" in words(chinese)
