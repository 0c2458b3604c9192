"""The guided tour: every step once, in order, in the page's language, also when a worker is killed at any step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from core import packaged_models
from core.actor import LOCAL, Actor
from core.datasets import datasets, export, presets
from core.db.store import Store
from core.db.tables import BeforeAfter, BeforeAfterAnswer, Tour, TrainingJob, utcnow
from core.errors import BadRequest, EngineMissing, FabulaError, NotFound
from core.evaluation import before_after, before_after_runner
from core.finetuning import job_cost, job_views
from core.jobs.task_runner import KINDS
from core.pricing import tokens
from core.tours import tour, tour_runner
from tests.support.fakes import MOMENT, NO_MODEL, FakeClient, FakeRegistry, FakeStream, remote_job
from tests.support.waiting import InstantStopSignal, at_once, run_to_end

LANGUAGES = ("en", "zh_CN")
_SEED = 7  # seed of the first tour


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def walk(store: Store, client: FakeClient) -> Callable[..., InstantStopSignal]:
    """Run a tour like the worker. Each time it waits, its job or its comparison runs."""

    def go(
        tour_id: str, hurry: InstantStopSignal | None = None, registry: FakeRegistry | None = None
    ) -> InstantStopSignal:
        registry = registry or FakeRegistry({"engine": client})
        if hurry is None:
            hurry = InstantStopSignal(lambda _number: work(store, registry))
        try:
            run_to_end(lambda: tour_runner.carry_out(store, registry, tour_id, hurry), hurry.wait)  # type: ignore[arg-type]
        except FabulaError as exc:
            tour_runner.give_up(store, tour_id, exc)
        return hurry

    return go


def work(store: Store, registry: FakeRegistry) -> None:
    """The worker's other work: one unfinished job, otherwise one unfinished comparison."""
    for kind in (KINDS["job"], KINDS["comparison"]):
        for item_id in kind.unfinished(store)[:1]:
            try:
                kind.carry_out(store, registry, item_id, InstantStopSignal())  # type: ignore[arg-type]  # fakes
            except FabulaError as exc:
                kind.give_up(store, item_id, exc)
            return


def seen(store: Store) -> tour.TourProgress:
    progress = tour.progress(store)
    assert progress is not None
    return progress


def pair_of(store: Store, progress: tour.TourProgress) -> before_after.AnswerPair:
    view = before_after.get(store, progress.job_id or "")
    assert view is not None
    return view.pairs[0]


def test_no_tour_yet(store: Store) -> None:
    assert tour.progress(store) is None
    tour.stop(store, LOCAL)
    with pytest.raises(NotFound):
        tour.resume(store, LOCAL, "gone")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_tour_takes_every_step_once_and_ends(
    store: Store, client: FakeClient, walk: Callable[..., InstantStopSignal], language: str
) -> None:
    tour_id = tour.start(store, LOCAL, language)
    assert tour.start(store, LOCAL, language) == tour_id
    assert (seen(store).state, seen(store).step, seen(store).steps, seen(store).key) == ("queued", 1, 3, "dataset")
    walk(tour_id)
    done = seen(store)
    assert (done.state, done.step, done.key, done.eta_s, done.language) == ("done", 3, "story", None, language)
    assert done.finished_at is not None
    dataset = datasets.summary(store, done.dataset_id or "")
    assert dataset.done == tour_runner.make_plan(store, language, _SEED).stories
    job = job_views.get(store, done.job_id or "")
    assert (job.name, job.base_model) == (dataset.name, "gemma-3-270m")
    assert job.hyperparameters == {"n_epochs": tour_runner.EPOCHS, "batch_size": 4}
    pair = pair_of(store, done)
    assert [(said.text, said.model) for said in (pair.base, pair.tuned)] == [
        ("从前有一天", "gemma-3-270m"),
        ("从前有一天", job.fine_tuned_model),
    ]
    learned = [json.loads(line)["prompt"] for line in client.uploaded[0].splitlines()]
    assert len(learned) == dataset.done
    assert pair.prompt + (job.separator or "") not in learned
    with store.reading() as session:
        assert session.get_one(Tour, tour_id).story_id == pair.tuned.story_id
    assert tour.start(store, LOCAL, language) != tour_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_language_of_the_page_chooses_the_stories(store: Store, language: str) -> None:
    plan = tour_runner.make_plan(store, language)
    assert plan.preset == presets.get(language=language) and plan.preset.language == language
    dataset_id = tour_runner.save_dataset(store, LOCAL, plan)
    assert list(datasets.summary(store, dataset_id).columns) == [column.name for column in plan.preset.recipe.columns]


def trained(store: Store, *rates: float) -> None:
    """Add finished jobs that trained on this many tokens per second on the tour's base model, without start-up."""
    with store.session() as session:
        for number, rate in enumerate(rates):
            session.add(
                TrainingJob(
                    id=f"j{number}", name="n", provider="engine", base_model="gemma-3-270m", hyperparameters={},
                    file_format="completion", status="succeeded", trained_tokens=int(rate * 600),
                    training_s=600.0 + job_cost.STARTUP_S,
                    created_by="local",
                )
            )  # fmt: skip


@pytest.mark.parametrize(
    ("rates", "rate"),
    [((), 130.0), ((200.0,), 200.0), ((110.0, 400.0, 120.0), 120.0), ((150.0, 170.0), 160.0), ((1.0,), 1.0)],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_as_many_stories_as_the_machine_learns_in_200_seconds(
    store: Store, rates: tuple[float, ...], rate: float, language: str
) -> None:
    trained(store, *rates)
    plan = tour_runner.make_plan(store, language)
    texts = [text for row in tour_runner.stories(plan.preset, 40, 0) for text in (_prompt(plan, row), row["story"])]
    batch_s = 2 * 4 * tokens.count(texts, packaged_models.BASE).tokens / 40 / rate  # one of two epochs
    assert plan.stories % 4 == 0 and plan.training_s == pytest.approx(plan.stories / 4 * batch_s)
    if plan.stories == tour_runner.FEWEST_STORIES:  # fewer would not be enough, even on a slow machine
        assert plan.training_s > 200 - batch_s
    elif plan.stories < tour_runner.MOST_STORIES:
        assert 200 - batch_s <= plan.training_s <= 200
    else:
        assert plan.training_s <= 200


def _prompt(plan: tour_runner.TourPlan, row: dict[str, str]) -> str:
    return ",".join(row[column.name] for column in plan.preset.recipe.columns)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_tour_learns_one_power_and_leaves_three_combinations_out(store: Store, language: str) -> None:
    plan = tour_runner.make_plan(store, language, _SEED)
    dataset_id = tour_runner.save_dataset(store, LOCAL, plan)
    examples = export.examples(store, dataset_id)
    assert datasets.summary(store, dataset_id).done == plan.stories == len({text for _prompt, text in examples})
    learned = {tuple(prompt.split(",")) for prompt, _text in examples}
    seen = [set(values) for values in zip(*learned, strict=True)]
    assert sorted(len(values) for values in seen)[0] == 1  # the power
    assert math.prod(map(len, seen)) - len(learned) == tour_runner.HELD_OUT


def test_a_repeated_tour_takes_other_stories_and_the_first_one_always_the_same(
    store: Store, client: FakeClient, walk: Callable[..., InstantStopSignal]
) -> None:
    for _ in range(2):
        walk(tour.start(store, LOCAL, "zh_CN"))
    first, second = (set(text.splitlines()) for text in client.uploaded)
    assert not first & second
    with store.session() as session:
        for job in session.scalars(select(TrainingJob)):
            assert job.seed in (7, 8)
    plan = tour_runner.make_plan(store, "zh_CN", _SEED)
    texts = {row["story"] for row in tour_runner.stories(plan.preset, plan.stories, _SEED)}
    assert all(any(text[:40] in json.loads(line)["completion"] for text in texts) for line in first)


class TourKilled(BaseException):
    """Simulates kill -9."""


@pytest.mark.parametrize("moment", ["training", "story"])
def test_killed_at_any_step_it_goes_on_and_makes_nothing_twice(
    store: Store,
    client: FakeClient,
    walk: Callable[..., InstantStopSignal],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    tour_id = tour.start(store, LOCAL, "en")
    with monkeypatch.context() as patch, pytest.raises(TourKilled):
        patch.setattr(tour_runner._TourRun, moment, lambda _self: (_ for _ in ()).throw(TourKilled()))
        walk(tour_id)
    assert (seen(store).state, seen(store).key) == ("running", moment)
    walk(tour_id)
    assert seen(store).state == "done"
    assert (len(datasets.list_datasets(store)), len(job_views.list_jobs(store))) == (1, 1)
    assert client.count("create_job") == 1
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(BeforeAfter)) == 1


@pytest.mark.parametrize("step", ["curve", "cost"])
def test_a_tour_of_an_earlier_version_ends_at_its_stories(
    store: Store, walk: Callable[..., InstantStopSignal], step: str
) -> None:
    tour_id = tour.start(store, LOCAL, "zh_CN")
    hurry = InstantStopSignal()
    hurry.then = lambda _: hurry.set()
    walk(tour_id, hurry)
    with store.session() as session:
        session.get_one(Tour, tour_id).step = step
    assert (seen(store).key, seen(store).step) == ("story", 3)


def test_a_worker_that_stops_leaves_the_tour_for_the_next(store: Store, walk: Callable[..., InstantStopSignal]) -> None:
    tour_id = tour.start(store, LOCAL, "en")
    hurry = InstantStopSignal()
    hurry.then = lambda _: hurry.set()
    walk(tour_id, hurry)
    assert (seen(store).state, seen(store).key) == ("running", "training")
    walk(tour_id)
    assert seen(store).state == "done"


# --- stop and resume -------------------------------------------------------------------------------------------------


def test_stopping_the_tour_cancels_its_training_and_keeps_the_rest(
    store: Store, client: FakeClient, walk: Callable[..., InstantStopSignal]
) -> None:
    tour_id = tour.start(store, LOCAL, "en")
    walk(tour_id, InstantStopSignal(lambda _: tour.stop(store, LOCAL)))
    stopped = seen(store)
    assert (stopped.state, stopped.key) == ("stopped", "training")
    assert job_views.get(store, stopped.job_id or "").request == "cancel"
    assert datasets.summary(store, stopped.dataset_id or "").done == tour_runner.make_plan(store, "en", _SEED).stories
    tour.stop(store, LOCAL)
    assert seen(store).finished_at == stopped.finished_at


def test_a_tour_that_was_stopped_in_training_trains_again_on_the_same_stories(
    store: Store, client: FakeClient, walk: Callable[..., InstantStopSignal]
) -> None:
    tour_id = tour.start(store, LOCAL, "en")
    walk(tour_id, InstantStopSignal(lambda _: tour.stop(store, LOCAL)))
    with pytest.raises(FabulaError, match="still being stopped"):
        tour.resume(store, LOCAL, tour_id)
    first = seen(store)
    assert first.state == "stopped"
    work(store, FakeRegistry({"engine": client}))  # the worker cancels it
    assert job_views.get(store, first.job_id or "").status in ("cancelled", "canceled")
    assert tour.resume(store, LOCAL, tour_id) == tour_id
    assert seen(store).state == "queued"
    walk(tour_id)
    done = seen(store)
    assert (done.state, done.dataset_id) == ("done", first.dataset_id)
    assert done.job_id != first.job_id and len(datasets.list_datasets(store)) == 1


def test_a_tour_that_was_stopped_while_its_models_wrote_writes_what_is_missing(
    store: Store, client: FakeClient, walk: Callable[..., InstantStopSignal]
) -> None:
    tour_id = tour.start(store, LOCAL, "en")
    hurry = InstantStopSignal()

    def train_then_stop(_number: int) -> None:
        if seen(store).key == "story":
            tour.stop(store, LOCAL)
        else:
            work(store, FakeRegistry({"engine": client}))

    hurry.then = train_then_stop
    walk(tour_id, hurry)
    stopped = seen(store)
    assert (stopped.state, stopped.key) == ("stopped", "story")
    assert (view := before_after.get(store, stopped.job_id or "")) is not None and view.state == "stopped"
    tour.resume(store, LOCAL, tour_id)
    walk(tour_id)
    assert seen(store).state == "done"
    assert client.count("create_job") == 1


def test_a_job_that_failed_at_the_engine_goes_on_where_it_was(
    store: Store, client: FakeClient, walk: Callable[..., InstantStopSignal]
) -> None:
    client.enqueue("job", remote_job("failed", error="Out of memory."))
    tour_id = tour.start(store, LOCAL, "en")
    walk(tour_id)
    failed = seen(store)
    assert (failed.state, "Out of memory." in (failed.reason or "")) == ("failed", True)
    client.enqueue("resume", remote_job("running"))
    client.enqueue("job", remote_job("succeeded"))
    tour.resume(store, LOCAL, tour_id)
    assert job_views.get(store, failed.job_id or "").request == "resume"
    assert seen(store).reason is None


def test_each_person_has_their_own_tour(store: Store) -> None:
    """In a team, the home page would otherwise show, continue and stop the tour of someone else."""
    ann, bob = Actor("ann", "Ann", "editor"), Actor("bob", "Bob", "editor")
    first, second = tour.start(store, ann, "en"), tour.start(store, bob, "en")
    assert first != second and tour.start(store, ann, "en") == first
    assert (found := tour.progress(store, person_id=ann.id)) is not None and found.id == first
    assert tour.progress(store, person_id="eve") is None
    assert tour.progress(store, tour_id=first, person_id=bob.id) is None
    tour.stop(store, bob)
    assert (found := tour.progress(store, tour_id=first)) is not None and found.state == "queued"
    third = tour.start(store, bob, "en")
    assert tour.resume(store, bob, second) == third


def test_a_finished_tour_is_not_resumed_and_one_under_way_comes_first(
    store: Store, walk: Callable[..., InstantStopSignal]
) -> None:
    first = tour.start(store, LOCAL, "en")
    walk(first)
    assert tour.resume(store, LOCAL, first) == first and seen(store).state == "done"
    stopped = tour.start(store, LOCAL, "en")
    tour.stop(store, LOCAL)
    third = tour.start(store, LOCAL, "zh_CN")
    assert tour.resume(store, LOCAL, stopped) == third


# --- errors -------------------------------------------------------------------------------------------------


def test_a_tour_without_an_engine_says_so(store: Store, walk: Callable[..., InstantStopSignal]) -> None:
    registry = FakeRegistry({"engine": EngineMissing("The engine is not installed.", "Install it.")})
    walk(tour.start(store, LOCAL, "en"), InstantStopSignal(lambda _number: work(store, registry)), registry)
    assert (seen(store).state, seen(store).reason) == ("failed", "The engine is not installed. Install it.")


def test_a_model_that_the_engine_does_not_serve_yet_is_waited_for(
    store: Store, client: FakeClient, walk: Callable[..., InstantStopSignal]
) -> None:
    client.enqueue("stream", NO_MODEL, NO_MODEL, FakeStream(("好",), "m"))
    walk(tour.start(store, LOCAL, "en"))
    assert seen(store).state in ("done", "failed")  # the base has the model: only the new one is waited for
    assert client.count("stream") >= 3


@pytest.mark.parametrize(
    ("base", "tuned", "state", "reason"),
    [
        ("done", "done", "done", None),
        ("failed", "done", "done", None),  # the story exists
        ("done", "failed", "failed", "No words came. Continue the tour to write again."),
        ("done", "stopped", "failed", "The new model was stopped. Continue the tour to write again."),
    ],
)
def test_how_the_first_pair_ends_is_how_the_tour_ends(
    store: Store,
    client: FakeClient,
    walk: Callable[..., InstantStopSignal],
    base: str,
    tuned: str,
    state: str,
    reason: str | None,
) -> None:
    hurry = InstantStopSignal()

    def end(_number: int) -> None:
        work(store, FakeRegistry({"engine": client}))
        states = {"base": base, "tuned": tuned}
        with store.session() as session:
            for answer in session.scalars(select(BeforeAfterAnswer)):
                answer.state = states[answer.side]
                answer.reason = "No words came." if answer.state == "failed" else None

    hurry.then = end
    walk(tour.start(store, LOCAL, "en"), hurry)
    assert (seen(store).state, seen(store).reason) == (state, reason)


def test_a_comparison_that_cannot_begin_ends_the_tour_with_its_reason(
    store: Store, client: FakeClient, walk: Callable[..., InstantStopSignal]
) -> None:
    hurry = InstantStopSignal()

    def train_then_fail(_number: int) -> None:
        if seen(store).key == "story":
            for before_after_id in KINDS["comparison"].unfinished(store):
                before_after_runner.give_up(store, before_after_id, BadRequest("It broke.", "Look."))
        else:
            work(store, FakeRegistry({"engine": client}))

    hurry.then = train_then_fail
    tour_id = tour.start(store, LOCAL, "en")
    walk(tour_id, hurry)
    assert (seen(store).state, seen(store).reason) == ("failed", "It broke. Look. Continue the tour to write again.")
    tour.resume(store, LOCAL, tour_id)
    walk(tour_id)
    assert seen(store).state == "done"


# --- time ------------------------------------------------------------------------------------------------------------


def test_the_time_left_comes_from_the_engine(store: Store) -> None:
    tour_id = tour.start(store, LOCAL, "en")
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
    assert len(set(at_once(10, lambda: tour.start(store, LOCAL, "en")))) == 1
    assert utcnow() > seen(store).created_at
