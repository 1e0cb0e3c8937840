"""The order of waiting jobs: shares of tenants, classes, priorities with age, and how much work a pass may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.policy.queueing import AGE_STEP_MS, BATCH_PATIENCE, Kind, Turns, num_tokens
from sllm_tasks.policy.shares import Shares
from sllm_tasks.policy.view import WaitingJob

_TENANTS = ("a", "b", "c")


def job(id_: str, tenant: str = "a", **changes: object) -> WaitingJob:
    values: dict[str, object] = {"model": "m", "attempt": 1, "prompt_tokens": 10, "max_tokens": 90}
    return WaitingJob(id=id_, tenant=tenant, **{**values, **changes})  # type: ignore[arg-type]


def turns_of(
    jobs: Iterable[WaitingJob], shares: Shares | None = None, may_start: Mapping[str, int] | None = None
) -> Turns:
    return Turns(jobs, shares or Shares(), weights={}, may_start=may_start or {})


def order_of(turns: Turns) -> list[str]:
    """The ids of all jobs, if each of them can be started."""
    ids = []
    while (turn := turns.next()) is not None:
        ids.append(turn.job.id)
        turns.started(turn.job)
    return ids


class Server:
    """A cluster that starts one job in each pass."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = weights or {}
        self.waiting: dict[str, WaitingJob] = {}
        self.shares = Shares()
        self.served: Counter[str] = Counter()

    def add(self, *jobs: WaitingJob) -> None:
        self.waiting.update((each.id, each) for each in jobs)

    def start_one(self) -> WaitingJob | None:
        tenants = {each.tenant for each in self.waiting.values()}
        self.shares = self.shares.brought_up(self.served, tenants, self.weights)
        turns = Turns(self.waiting.values(), self.shares, weights=self.weights, may_start={})
        turn = turns.next()
        if turn is None:
            return None
        turns.started(turn.job)
        self.shares = replace(self.shares, batch_credit=turns.batch_credit)
        self.served[turn.job.tenant] += num_tokens(turn.job)
        return self.waiting.pop(turn.job.id)


def test_a_job_goes_before_those_that_were_submitted_later() -> None:
    assert order_of(turns_of([job("late", created_ms=2), job("early", created_ms=1)])) == ["early", "late"]


def test_a_job_of_a_higher_priority_goes_first() -> None:
    assert order_of(turns_of([job("low", priority=4), job("high", priority=6)])) == ["high", "low"]


def test_a_job_of_priority_0_is_overtaken_only_by_those_submitted_within_nine_steps_of_age() -> None:
    patient = job("patient", priority=0, created_ms=0)
    in_time = job("in-time", priority=9, created_ms=9 * AGE_STEP_MS - 1)
    too_late = job("too-late", priority=9, created_ms=9 * AGE_STEP_MS + 1)
    assert order_of(turns_of([patient, in_time, too_late])) == ["in-time", "patient", "too-late"]


def test_a_priority_counts_among_its_tenants_jobs_only() -> None:
    jobs = [job(f"a{i}", "a", priority=9, created_ms=i) for i in range(3)] + [job("b0", "b", priority=0, created_ms=9)]
    assert "b0" in order_of(turns_of(jobs))[:2]


def test_tenants_take_turns_whoever_has_more_jobs() -> None:
    flood = [job(f"flood{i:03}", "a", created_ms=i) for i in range(100)]
    others = [job(f"other{i}", "b", created_ms=1_000 + i) for i in range(3)]
    assert order_of(turns_of([*flood, *others]))[:6] == [
        "other0",
        "flood000",
        "other1",
        "flood001",
        "other2",
        "flood002",
    ]


def test_a_tenant_of_twice_the_weight_gets_twice_as_much() -> None:
    server = Server({"a": 2.0, "b": 1.0})
    for tenant in ("a", "b"):
        server.add(*(job(f"{tenant}{i:02}", tenant) for i in range(30)))
    first = Counter(started.tenant for _ in range(30) if (started := server.start_one()))
    assert first == {"a": 20, "b": 10}


def test_who_had_nothing_waiting_saves_up_no_claim() -> None:
    server = Server()
    server.add(*(job(f"a{i:02}", "a") for i in range(40)))
    for _ in range(20):
        server.start_one()
    server.add(*(job(f"b{i:02}", "b") for i in range(20)))
    next_ten = Counter(started.tenant for _ in range(10) if (started := server.start_one()))
    assert next_ten == {"a": 5, "b": 5}


def test_a_tenant_that_leaves_for_a_moment_keeps_what_it_was_charged() -> None:
    server = Server()
    server.add(*(job(f"b{i}", "b") for i in range(9)), job("a0", "a", max_tokens=390))
    started = [server.start_one() for _ in range(2)]
    assert {each.tenant for each in started if each} == {"a", "b"}
    server.add(job("a1", "a"))
    assert [each.tenant for _ in range(3) if (each := server.start_one())] == ["b", "b", "b"]


def test_when_nobody_waits_the_past_is_forgotten() -> None:
    shares = Shares().brought_up({}, {"a"}, {}).brought_up({"a": 500}, {"a"}, {})
    assert shares.counters == {"a": 500}
    assert shares.brought_up({"a": 500}, set(), {}) == Shares()


def test_batch_jobs_take_what_interactive_jobs_leave() -> None:
    jobs = [job("batch", job_class="batch", created_ms=0), *(job(f"i{i}", created_ms=1 + i) for i in range(3))]
    assert order_of(turns_of(jobs)) == ["i0", "i1", "i2", "batch"]


def test_of_what_starts_while_both_wait_one_token_in_ten_is_of_batch_jobs() -> None:
    server = Server()
    server.add(*(job(f"batch{i:03}", "b", job_class="batch") for i in range(100)))
    for i in range(300):
        server.add(job(f"i{i:03}", "a", created_ms=i), job(f"j{i:03}", "b", created_ms=i))
    started = Counter(each.job_class for _ in range(200) if (each := server.start_one()))
    assert started["batch"] == 200 // (BATCH_PATIENCE + 1)


def test_batch_jobs_that_could_not_start_do_not_come_all_at_once_later() -> None:
    blocked = [job(f"batch{i}", job_class="batch", model="other") for i in range(50)]
    shares = replace(Shares(), batch_credit=10**9)
    turns = turns_of([*blocked, *(job(f"i{i:02}", created_ms=i) for i in range(30))], shares)
    assert Counter(id_[:1] for id_ in order_of(turns)[:20]) == {"b": 2, "i": 18}


def test_a_tenant_starts_no_more_jobs_than_it_may() -> None:
    jobs = [*(job(f"a{i}", "a") for i in range(5)), *(job(f"b{i}", "b") for i in range(2))]
    assert sorted(order_of(turns_of(jobs, may_start={"a": 2}))) == ["a0", "a1", "b0", "b1"]
    assert order_of(turns_of(jobs, may_start={"a": 0, "b": -3})) == []


def test_after_a_job_that_waits_only_the_last_of_its_kind_is_asked() -> None:
    turns = turns_of([*(job(f"a{i:03}", "a", created_ms=i) for i in range(100)), job("b0", "b", created_ms=500)])
    first = turns.next()
    assert first is not None
    assert (first.job.id, first.num_ahead, first.oldest_ms) == ("b0", 0, 0)
    turns.waits(first.job)
    last = turns.next()
    assert last is not None
    assert (last.job.id, last.num_ahead) == ("a099", 100)
    turns.started(last.job)
    next_to_last = turns.next()
    assert next_to_last is not None
    assert (next_to_last.job.id, next_to_last.num_ahead) == ("a098", 99)
    turns.waits(next_to_last.job)
    assert turns.next() is None


def test_a_model_that_has_to_wait_does_not_hold_up_another() -> None:
    turns = turns_of([job("stuck", created_ms=0), job("free", model="other", created_ms=1)])
    stuck = turns.next()
    assert stuck is not None
    turns.waits(stuck.job)
    assert order_of(turns) == ["free"]


_JOBS = st.lists(
    st.builds(
        lambda tenant, job_class, model, priority, created_ms, tokens: (
            tenant, job_class, model, priority, created_ms, tokens,
        ),
        st.sampled_from(_TENANTS), st.sampled_from(["interactive", "batch"]), st.sampled_from(["m", "n"]),
        st.integers(0, 9), st.integers(0, 200_000), st.integers(1, 500),
    ),
    max_size=40,
)  # fmt: skip


def _made(drawn: list[tuple[str, str, str, int, int, int]]) -> list[WaitingJob]:
    return [
        job(
            f"job{i:02}", tenant, job_class=job_class, model=model, priority=priority, created_ms=created_ms,
            max_tokens=tokens,
        )
        for i, (tenant, job_class, model, priority, created_ms, tokens) in enumerate(drawn)
    ]  # fmt: skip


@given(_JOBS)
def test_every_job_gets_exactly_one_turn_if_all_can_start(drawn: list[tuple[str, str, str, int, int, int]]) -> None:
    jobs = _made(drawn)
    assert sorted(order_of(turns_of(jobs))) == sorted(each.id for each in jobs)


@given(_JOBS, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_records(
    drawn: list[tuple[str, str, str, int, int, int]], chance: object
) -> None:
    jobs = _made(drawn)
    shuffled = list(jobs)
    chance.shuffle(shuffled)  # type: ignore[attr-defined] # a random.Random of hypothesis
    assert order_of(turns_of(jobs)) == order_of(turns_of(shuffled))


@given(_JOBS, st.integers(0, 5))
def test_a_pass_decides_as_often_as_jobs_start_and_twice_more_for_each_kind(
    drawn: list[tuple[str, str, str, int, int, int]], num_places: int
) -> None:
    jobs = _made(drawn)
    turns, num_decisions, left = turns_of(jobs), 0, num_places
    while (turn := turns.next()) is not None:
        num_decisions += 1
        if left:
            left -= 1
            turns.started(turn.job)
        else:
            turns.waits(turn.job)
    assert num_decisions <= num_places + 2 * len({Kind.of(each) for each in jobs})


@given(_JOBS)
def test_tenants_that_wait_all_the_time_differ_by_one_job_at_most(
    drawn: list[tuple[str, str, str, int, int, int]],
) -> None:
    server = Server()
    server.add(*(replace(each, job_class="interactive") for each in _made(drawn)))
    most = max(map(num_tokens, server.waiting.values()), default=0)
    backlogged = {each.tenant for each in server.waiting.values()}
    while server.start_one() is not None:
        backlogged &= {each.tenant for each in server.waiting.values()}
        services = [server.served[tenant] for tenant in backlogged]
        assert not services or max(services) - min(services) <= most


@given(_JOBS)
def test_everybody_is_served_in_the_end_however_long_others_keep_coming(
    drawn: list[tuple[str, str, str, int, int, int]],
) -> None:
    """A rival submits as fast as the cluster starts jobs, each of the highest priority; nobody starves of it."""
    server, jobs = Server(), _made(drawn)
    server.add(*jobs)
    tokens = sum(map(num_tokens, jobs)) + 500
    for i in range((BATCH_PATIENCE + 1) * len(_TENANTS) * tokens // 100 + 1):
        if not any(each.id in server.waiting for each in jobs):
            return
        server.add(job(f"rival{i}", "rival", priority=9, created_ms=i))
        server.start_one()
    assert not [each.id for each in jobs if each.id in server.waiting]
