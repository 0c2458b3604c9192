"""The guided tour: every step once, in order, whatever is killed on the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from core import tour, tour_walk
from core.actor import LOCAL
from core.dataset import datasets
from core.db.store import Store
from core.db.tables import Tour, TrainingJob, utcnow
from core.errors import EngineMissing, FabulaError, Unavailable
from core.story import stream
from core.training import jobs
from tests.fakes import MOMENT, NO_MODEL, FakeClient, FakeRegistry, FakeStream, remote_job
from tests.test_training_jobs import Hurry
from tests.waiting import at_once, to_the_end


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def walk(store: Store, client: FakeClient) -> Callable[..., Hurry]:
    """Carry a tour out as the worker would; the job is trained at the tour's first look at it."""

    def go(tour_id: str, hurry: Hurry | None = None, registry: FakeRegistry | None = None) -> Hurry:
        registry = registry or FakeRegistry({"engine": client})

        def train(_number: int) -> None:
            for job in jobs.list_jobs(store):
                if not job.finished:
                    try:
                        jobs.carry_out(store, registry, job.id, Hurry())  # type: ignore[arg-type]  # a fake
                    except FabulaError as exc:
                        jobs.give_up(store, job.id, exc)

        if hurry is None:
            hurry = Hurry()
            hurry.then = train
        try:
            to_the_end(lambda: tour_walk.carry_out(store, registry, tour_id, hurry), hurry.wait)  # type: ignore[arg-type]
        except FabulaError as exc:
            tour_walk.give_up(store, tour_id, exc)
        return hurry

    return go


def seen(store: Store) -> tour.TourProgress:
    progress = tour.progress(store)
    assert progress is not None
    return progress


def test_no_tour_yet(store: Store) -> None:
    assert tour.progress(store) is None
    tour.stop(store, LOCAL)


def test_the_whole_tour(store: Store, client: FakeClient, walk: Callable[..., Hurry]) -> None:
    tour_id = tour.start(store, LOCAL)
    assert tour.start(store, LOCAL) == tour_id
    assert (seen(store).state, seen(store).step, seen(store).steps, seen(store).key) == ("queued", 1, 5, "dataset")
    walk(tour_id)
    done = seen(store)
    assert (done.state, done.step, done.key, done.eta_s) == ("done", 5, "story", None)
    assert done.finished_at is not None
    assert datasets.summary(store, done.dataset_id or "").done == tour_walk.EXAMPLES == 48
    job = jobs.get(store, done.job_id or "")
    assert (job.name, job.base_model) == (datasets.summary(store, done.dataset_id or "").name, "storyteller")
    assert job.hyperparameters == {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 0.25}
    story = stream.get(store, done.story_id or "")
    assert story is not None
    assert (story.text, story.model) == ("从前有一天", job.fine_tuned_model)
    request = next(what for call, what in client.sent if call == "stream")
    assert request.prompt == f"宋,发射激光,艰难{job.separator}"
    assert (request.endpoint, request.stop) == ("completion", (job.stop,))
    assert tour.start(store, LOCAL) != tour_id


def test_a_tour_that_is_stopped_while_the_engine_starts_trains_nothing(
    store: Store, client: FakeClient, walk: Callable[..., Hurry]
) -> None:
    client.enqueue("models", Unavailable("The engine is starting.", "Wait."), [])
    hurry = Hurry()
    hurry.then = lambda _: tour.stop(store, LOCAL)
    walk(tour.start(store, LOCAL), hurry)
    assert (seen(store).state, jobs.list_jobs(store)) == ("stopped", [])


def test_an_engine_without_the_storyteller_trains_its_base(
    store: Store, client: FakeClient, walk: Callable[..., Hurry]
) -> None:
    client.enqueue("models", Unavailable("The engine is starting.", "Wait."), [])
    walk(tour.start(store, LOCAL))
    (job,) = jobs.list_jobs(store)
    assert (job.base_model, job.hyperparameters) == ("gemma-3-270m", {"n_epochs": 1, "batch_size": 4})


def test_the_prompt_is_outside_the_training_data(store: Store, client: FakeClient, walk: Callable[..., Hurry]) -> None:
    walk(tour.start(store, LOCAL))
    assert "发射激光" not in "".join(line.partition('"completion"')[0] for line in client.uploaded[0].splitlines())


class Killed(BaseException):
    """What kill -9 looks like from inside."""


@pytest.mark.parametrize("moment", ["training", "curve", "story"])
def test_killed_at_any_step_it_goes_on_and_makes_nothing_twice(
    store: Store, client: FakeClient, walk: Callable[..., Hurry], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    tour_id = tour.start(store, LOCAL)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tour_walk._Walk, moment, lambda _self: (_ for _ in ()).throw(Killed()))
        walk(tour_id)
    assert (seen(store).state, seen(store).key) == ("running", moment)
    walk(tour_id)
    assert seen(store).state == "done"
    assert len(datasets.list_datasets(store)) == 1
    assert len(jobs.list_jobs(store)) == 1
    assert client.count("create_job") == 1


def test_a_worker_that_stops_leaves_the_tour_for_the_next(store: Store, walk: Callable[..., Hurry]) -> None:
    tour_id = tour.start(store, LOCAL)
    hurry = Hurry()
    hurry.then = lambda _: hurry.set()
    walk(tour_id, hurry)
    assert (seen(store).state, seen(store).key) == ("running", "training")
    walk(tour_id)
    assert seen(store).state == "done"


def test_stopping_the_tour_cancels_its_training_and_keeps_the_rest(
    store: Store, client: FakeClient, walk: Callable[..., Hurry]
) -> None:
    tour_id = tour.start(store, LOCAL)
    hurry = Hurry()
    hurry.then = lambda _: tour.stop(store, LOCAL)
    walk(tour_id, hurry)
    stopped = seen(store)
    assert (stopped.state, stopped.key) == ("stopped", "training")
    assert jobs.get(store, stopped.job_id or "").request == "cancel"
    assert datasets.summary(store, stopped.dataset_id or "").done == 48
    tour.stop(store, LOCAL)
    assert seen(store).finished_at == stopped.finished_at


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        (EngineMissing("The engine is not installed.", "Install it."), "The engine is not installed. Install it."),
        ("failed there", "Out of memory."),
    ],
)
def test_a_tour_that_cannot_go_on_says_why(
    store: Store, client: FakeClient, walk: Callable[..., Hurry], provider: EngineMissing | str, told: str
) -> None:
    client.enqueue("job", remote_job("failed", error="Out of memory."))
    registry = FakeRegistry({"engine": provider if isinstance(provider, EngineMissing) else client})
    tour_id = tour.start(store, LOCAL)
    with_registry = Hurry()

    def train(_number: int) -> None:
        job = jobs.list_jobs(store)[0]
        try:
            jobs.carry_out(store, registry, job.id, Hurry())  # type: ignore[arg-type]  # a fake
        except FabulaError as exc:
            jobs.give_up(store, job.id, exc)

    with_registry.then = train
    walk(tour_id, with_registry, registry)
    failed = seen(store)
    assert failed.state == "failed"
    assert told in (failed.reason or "")


def test_a_model_that_the_engine_does_not_serve_yet_is_waited_for(
    store: Store, client: FakeClient, walk: Callable[..., Hurry]
) -> None:
    client.enqueue("stream", NO_MODEL, NO_MODEL, FakeStream(("好",), "m"))
    walk(tour.start(store, LOCAL))
    assert seen(store).state == "done"
    assert client.count("stream") == 3


def test_the_time_left_comes_from_the_engine(store: Store) -> None:
    tour_id = tour.start(store, LOCAL)
    job = TrainingJob(
        id="j",
        name="n",
        provider="engine",
        base_model="b",
        hyperparameters={},
        file_format="completion",
        status="running",
        estimated_finish=MOMENT + timedelta(seconds=60),
        created_by="local",
    )
    with store.session() as session:
        session.add(job)
        row = session.get_one(Tour, tour_id)
        row.state, row.step, row.job_id = "running", "training", "j"
    progress = tour.progress(store, MOMENT)
    assert progress is not None
    assert progress.eta_s is not None
    assert 60 < progress.eta_s < 120
    with store.session() as session:
        session.get_one(TrainingJob, "j").estimated_finish = None
    assert seen(store).eta_s is None


def test_ten_clicks_at_once_are_one_tour(store: Store) -> None:
    assert len(set(at_once(10, lambda: tour.start(store, LOCAL)))) == 1
    assert utcnow() > seen(store).created_at
