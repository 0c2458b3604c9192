"""The engine's supervisor with real processes: start, restart, no orphans; and the status of all components."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core import processes
from core.db.store import Store
from core.errors import EngineMissing, StorageFull, Unavailable
from core.jobs import system_status
from core.jobs.engine_supervisor import EngineProcess, SupervisorLimits, ask_health, missing_packages
from core.jobs.heartbeat import Heartbeat
from core.providers import Registry, engine_endpoint
from core.providers.engine_endpoint import EngineNote, current_endpoint
from core.settings import Settings
from tests.support.waiting import WAIT_LIMIT_S, at_once, until

_ROOT = Path(__file__).parents[2]
_PROMISED_S = (system_status.TIMEOUT_S, system_status.HEALTH_TIMEOUT_S)  # before `hermetic` gives tests more time
_QUICK = SupervisorLimits(lock_poll_s=0.05, missing_poll_s=0.05, first_pause_s=0.05)


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text("# what the fake needs\npytest>=8\n")
    return path


@pytest.fixture
def keep(
    settings: Settings, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., EngineProcess]]:
    """Supervise a fake engine; it is stopped after the test."""
    engines: list[EngineProcess] = []

    def start(behaviour: str = "well", needs: Path = requirements, limits: SupervisorLimits = _QUICK) -> EngineProcess:
        monkeypatch.setenv("FABULA_FAKE_ENGINE", behaviour)
        engine = EngineProcess(settings, module="tests.support.fake_engine", requirements=needs, limits=limits)
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.stop()


def note_when(settings: Settings, state: str) -> EngineNote:
    return until(
        lambda: note if (note := engine_endpoint.read(settings)).state == state else None, f"the engine {state}"
    )


def refused(settings: Settings) -> str:
    """Why the engine is not available."""
    with pytest.raises(Unavailable) as caught:
        current_endpoint(settings)
    return caught.value.what


def lives(settings: Settings) -> list[list[str]]:
    path = settings.engine_home / "lives"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_the_engine_comes_up_with_a_key_of_its_own(settings: Settings, keep: Callable[..., EngineProcess]) -> None:
    keep()
    note = note_when(settings, "up")
    where = current_endpoint(settings)
    health = ask_health(where, 5.0)
    assert health is not None
    assert health["models"] == ["tiny"]
    assert stat.S_IMODE((settings.home / "engine.token").stat().st_mode) == 0o600
    assert where.token not in (settings.home / "engine.json").read_text()
    assert where.token not in (settings.engine_home / "engine.log").read_text()
    assert where.token not in repr(where)
    assert note.url == where.url
    assert int(lives(settings)[0][0]) in {int(note.process.partition(":")[0])}


_SECRETS = (
    *("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "TOGETHER_API_KEY", "ANTHROPIC_API_KEY", "DEEPSEEK_KEY"),
    *("DATABASE_URL", "FABULA_ENGINE_URL", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("SMTP_PASSWORD", "FABULA_MASTER_KEY", "PYTHON_KEYRING_PASSWORD", "MY_PROVIDER"),
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_engine_gets_no_key_of_a_provider(
    settings: Settings, keep: Callable[..., EngineProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in _SECRETS:
        monkeypatch.setenv(name, "sk-not-for-the-engine")
    passed_on = {
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "2",
        "FABULA_ENGINE_MODELS": "tiny=/x.gguf",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_TOKEN": "hf-for-downloads-of-base-models",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    for name, value in passed_on.items():
        monkeypatch.setenv(name, value)
    keep()
    pid = note_when(settings, "up").process.partition(":")[0]
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    environ = dict(line.split("=", 1) for line in lines if line)
    assert not set(_SECRETS) & environ.keys()
    assert "sk-not-for-the-engine" not in environ.values()
    assert passed_on.items() <= environ.items()
    assert environ["FABULA_ENGINE_TOKEN"] and environ["PATH"] == os.environ["PATH"]


def test_stop_ends_it_and_says_so(settings: Settings, keep: Callable[..., EngineProcess]) -> None:
    engine = keep()
    note = note_when(settings, "up")
    engine.stop()
    assert not processes.is_running(note.process)
    assert engine_endpoint.read(settings).state == "stopped"
    with pytest.raises(Unavailable) as caught:
        current_endpoint(settings)
    assert caught.value.next_step
    engine.start()
    assert note_when(settings, "up").process != note.process


def test_an_engine_that_is_killed_is_started_again_at_its_address(
    settings: Settings, keep: Callable[..., EngineProcess]
) -> None:
    keep()
    first = note_when(settings, "up")
    os.kill(int(first.process.partition(":")[0]), signal.SIGKILL)
    second = until(
        lambda: (
            note if (note := engine_endpoint.read(settings)).state == "up" and note.process != first.process else None
        ),
        "a second life",
    )
    assert second.url == first.url
    assert ask_health(current_endpoint(settings), 5.0) is not None


def test_an_engine_that_falls_is_told_with_its_last_words(
    settings: Settings, keep: Callable[..., EngineProcess]
) -> None:
    keep("fall")
    note = note_when(settings, "down")
    assert "The dog ate the weights." in note.message
    assert "engine.log" in note.next_step
    until(lambda: "dog" in refused(settings), "the last words, between two tries")
    until(lambda: len(lives(settings)) >= 2, "another try")


def test_a_taken_port_is_changed(settings: Settings, keep: Callable[..., EngineProcess]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        settings.home.mkdir(parents=True)
        engine_endpoint.write(settings, EngineNote("stopped", f"http://127.0.0.1:{taken}"))
        keep("port")
        note = note_when(settings, "up")
    assert str(taken) not in note.url
    assert len(lives(settings)) == 2


def test_missing_packages_are_named_and_looked_for_again(
    settings: Settings, keep: Callable[..., EngineProcess], tmp_path: Path
) -> None:
    needs = tmp_path / "needs.txt"
    needs.write_text("pytest>=8\nno-such-package-for-fabula==1\n")
    keep("well", needs)
    note = note_when(settings, "missing")
    assert "no-such-package-for-fabula" in note.message
    assert "pytest" not in note.message
    assert f"{sys.executable} -m pip install -r requirements-engine.txt" in note.next_step
    with pytest.raises(EngineMissing, match="no-such-package"):
        current_endpoint(settings)
    assert lives(settings) == []
    needs.write_text("pytest>=8\n")
    note_when(settings, "up")


def test_the_real_list_of_packages_can_be_read() -> None:
    assert "torch" not in missing_packages(_ROOT / "requirements.txt")
    names = (_ROOT / "requirements-engine.txt").read_text()
    assert all(name in names for name in missing_packages(_ROOT / "requirements-engine.txt"))


def test_a_deaf_engine_of_an_earlier_life_is_not_left_running(
    settings: Settings, keep: Callable[..., EngineProcess]
) -> None:
    settings.engine_home.mkdir(parents=True)
    stale = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.fake_engine",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--home",
            settings.engine_home,
        ],
        cwd=_ROOT,
        env=os.environ | {"FABULA_FAKE_ENGINE": "deaf", "FABULA_ENGINE_TOKEN": "x"},
    )
    until(lambda: lives(settings), "the stale engine")
    engine_endpoint.write(settings, EngineNote("up", "http://127.0.0.1:1", processes.identity(stale.pid)))
    keep(limits=replace(_QUICK, grace_s=0.2))
    assert stale.wait(WAIT_LIMIT_S) == -signal.SIGKILL
    note_when(settings, "up")


def test_two_studios_on_one_home_share_an_engine_and_the_second_takes_over(
    settings: Settings, keep: Callable[..., EngineProcess]
) -> None:
    first = keep()
    note = note_when(settings, "up")
    keep()
    assert current_endpoint(settings).url == note.url
    assert len(lives(settings)) == 1
    first.stop()
    until(lambda: len(lives(settings)) == 2, "the second app's engine")
    note_when(settings, "up")


def test_the_log_is_bounded(settings: Settings, keep: Callable[..., EngineProcess]) -> None:
    keep("chatty", limits=replace(_QUICK, log_bytes=1_000))
    log = settings.engine_home / "engine.log"
    until(lambda: log.with_suffix(".log.1").exists() and log.stat().st_size == 0, "a shortened log")
    assert "xxx" in log.with_suffix(".log.1").read_text()


def test_a_foreign_engine_is_not_kept(settings: Settings, requirements: Path) -> None:
    foreign = replace(settings, engine_url="http://gpu:8010", engine_token="k")
    engine = EngineProcess(foreign, module="tests.support.fake_engine", requirements=requirements)
    engine.start()
    engine.stop()
    assert (current_endpoint(foreign).url, current_endpoint(foreign).token) == ("http://gpu:8010", "k")
    assert not settings.engine_home.exists()


def test_kill_9_of_the_studio_ends_the_engine_and_the_next_start_has_a_new_one(
    settings: Settings, requirements: Path, keep: Callable[..., EngineProcess]
) -> None:
    studio = subprocess.Popen(
        [sys.executable, "-m", "tests.support.supervisor_process", str(settings.home), str(requirements)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
    )
    note = note_when(settings, "up")
    os.kill(studio.pid, signal.SIGKILL)
    studio.wait()
    until(lambda: not processes.is_running(note.process), "the engine ended with its app")
    with pytest.raises(Unavailable):
        current_endpoint(settings)
    keep()
    assert note_when(settings, "up").process != note.process


def test_the_key_is_made_once_however_many_ask(settings: Settings) -> None:
    settings.home.mkdir(parents=True)
    assert len(set(at_once(8, lambda: engine_endpoint.token(settings)))) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "up", "surprise": 1}', '{"state": "up"}'])
def test_a_note_that_makes_no_sense_is_no_engine(settings: Settings, content: str) -> None:
    settings.home.mkdir(parents=True)
    (settings.home / "engine.json").write_text(content)
    with pytest.raises(Unavailable):
        current_endpoint(settings)


def test_a_process_is_known_by_more_than_its_number() -> None:
    mine = processes.identity()
    assert processes.is_running(mine)
    assert not processes.is_running(f"{os.getpid()}:1")
    assert not processes.is_running("")
    assert processes.identity(2**22 + 1) == ""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = processes.identity(child.pid)
    assert processes.is_running(who)
    threading.Thread(target=child.wait).start()
    processes.terminate(who, 10.0)
    assert not processes.is_running(who)


# --- status --------------------------------------------------------------------------------------------------------


def _providers(settings: Settings, store: Store | None = None, **environ: str) -> Registry:
    return Registry.from_settings(settings, environ, None if store is None else lambda: store)


def test_status_of_a_studio_at_work(settings: Settings, keep: Callable[..., EngineProcess]) -> None:
    keep()
    note_when(settings, "up")
    store = Store.open(settings)
    Heartbeat(store).beat(2)
    seen = system_status.collect(settings, store, _providers(settings, store, OPENAI_API_KEY="sk-x"))
    assert (seen.engine.state, seen.engine.models, seen.engine.tokens_per_s) == ("up", ("tiny",), 41.5)
    assert (seen.worker.up, seen.worker.running, seen.worker.queued) == (True, 2, 0)
    assert [one.id for one in seen.providers] == ["engine", "openai"]
    assert "sk-x" not in repr(seen)


def test_status_with_nothing_there_says_what_to_do(settings: Settings) -> None:
    seen = system_status.collect(settings, None, _providers(settings))
    assert (seen.engine.state, seen.worker.up) == ("down", False)
    assert seen.engine.message
    assert seen.engine.next_step
    assert seen.worker.next_step
    assert [one.id for one in seen.providers] == ["engine"]
    store = Store.open(settings)
    waiting = system_status.collect(settings, store, _providers(settings, store))
    assert (waiting.worker.up, waiting.worker.queued) == (False, 0)
    assert "python -m core.jobs.worker" in waiting.worker.next_step


def test_status_with_the_engine_missing(settings: Settings) -> None:
    settings.home.mkdir(parents=True)
    engine_endpoint.write(settings, EngineNote("missing", message="torch is missing.", next_step="Install it."))
    seen = system_status.collect(settings, None, _providers(settings)).engine
    assert (seen.state, seen.message, seen.next_step) == ("missing", "torch is missing.", "Install it.")


@pytest.mark.parametrize("state", ["starting", "up"])
def test_status_of_an_engine_that_does_not_answer_yet(settings: Settings, state: engine_endpoint.State) -> None:
    settings.home.mkdir(parents=True)
    engine_endpoint.write(
        settings, EngineNote(state, "http://127.0.0.1:1", processes.identity(), "It starts.", "Wait.")
    )
    assert system_status.collect(settings, None, _providers(settings)).engine.state == state


def test_status_answers_within_a_second_when_nothing_answers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert max(_PROMISED_S) < 1
    for name, seconds in zip(("TIMEOUT_S", "HEALTH_TIMEOUT_S"), _PROMISED_S, strict=True):
        monkeypatch.setattr(system_status, name, seconds)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        there = replace(settings, engine_url=f"http://127.0.0.1:{silent.getsockname()[1]}")

        over, asked, waited_for = threading.Event(), threading.Event(), threading.Event()

        class Stuck(Store):
            def reading(self) -> object:  # type: ignore[override]  # a database that never answers
                asked.set()
                if not over.wait(WAIT_LIMIT_S):
                    waited_for.set()
                raise StorageFull("The database does not answer.", "Wait.")

        stuck = Stuck(settings.database_url)
        seen = system_status.collect(there, stuck, _providers(there, stuck))
        assert asked.wait(WAIT_LIMIT_S) and not waited_for.is_set()
        over.set()
    assert (seen.engine.state, seen.engine.external, seen.worker.up) == ("down", True, False)
    assert "FABULA_ENGINE_URL" in seen.engine.next_step
