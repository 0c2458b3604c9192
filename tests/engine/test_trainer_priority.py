"""FABULA_TRAINER_PRIORITY: training uses idle processor time only, or has the priority of other programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.engine.child_processes import TrainerProcess
from core.engine.job_rules import TRAINER_PRIORITY_SETTING, trainer_priority
from core.errors import BadSettings
from core.setting_fields import checked


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="idle scheduling exists on Linux only")
@pytest.mark.parametrize(("value", "idle"), [("", True), ("idle", True), (" Idle ", True), ("normal", False)])
def test_the_trainer_runs_with_the_priority_of_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, idle: bool
) -> None:
    monkeypatch.setenv(TRAINER_PRIORITY_SETTING, value)
    trainer = TrainerProcess(tmp_path)
    try:  # it has a policy until it is waited for, also after it has ended
        expected = os.SCHED_IDLE if idle else os.sched_getscheduler(0)
        assert os.sched_getscheduler(trainer.pid) == expected
    finally:
        trainer.kill()


@pytest.mark.parametrize("value", ["low", "0", "SCHED_IDLE", "idle normal"])
def test_another_value_is_named_by_studio_and_engine(value: str) -> None:
    with pytest.raises(BadSettings, match=TRAINER_PRIORITY_SETTING):
        checked({TRAINER_PRIORITY_SETTING: value})
    with pytest.raises(ValueError, match=TRAINER_PRIORITY_SETTING):
        trainer_priority({TRAINER_PRIORITY_SETTING: value})


@pytest.mark.parametrize("value", ["", "idle", "normal", "NORMAL"])
def test_studio_and_engine_read_it_the_same_way(value: str) -> None:
    assert checked({TRAINER_PRIORITY_SETTING: value}).trainer_priority == trainer_priority(
        {TRAINER_PRIORITY_SETTING: value}
    )
