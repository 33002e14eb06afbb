"""The routing decision, without I/O: who is asked next, for how long, and when it is over."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.breaker import BreakerState
from mesh.errors import PlexusError, Reason
from services.router.deployment import Deployment, Fitness
from services.router.failure import FailureKind, UpstreamFailure
from services.router.route import Action, GiveUp, Route, RoutePolicy, Try, Wait

A, B, C = (Deployment(provider=name, model="m") for name in ("a", "b", "c"))
WELL: Mapping[Deployment, Fitness] = {}
K = FailureKind
FALLS_OVER = (K.KEY_FATAL, K.KEY_THROTTLED, K.MODEL_MISSING, K.TRANSIENT, K.SILENT)
ENDS = (K.REQUEST_FATAL, K.POLICY_REFUSAL)


def route(
    *candidates: Deployment, policy: RoutePolicy | None = None, deadline_s: float = 30.0
) -> Route:
    return Route(candidates, policy or RoutePolicy(), estimated_tokens=100, deadline_s=deadline_s)


def tried(action: Action) -> Deployment:
    assert isinstance(action, Try)
    return action.deployment


def error_of(action: Action) -> PlexusError:
    assert isinstance(action, GiveUp)
    return action.error


@pytest.mark.parametrize("kind", FALLS_OVER)
def test_the_next_deployment_is_asked_at_once(kind: FailureKind) -> None:
    way = route(A, B)
    assert tried(way.decide(0.0, WELL)) == A
    way.failed(A, UpstreamFailure(kind, retry_after_s=20.0), 0.1, has_output=False)
    assert tried(way.decide(0.1, WELL)) == B


@pytest.mark.parametrize("kind", ENDS)
def test_what_is_wrong_with_the_request_ends_it(kind: FailureKind) -> None:
    way = route(A, B)
    way.decide(0.0, WELL)
    way.failed(A, UpstreamFailure(kind), 0.1, has_output=False)
    expected = {
        K.REQUEST_FATAL: Reason.UPSTREAM_REJECTED,
        K.POLICY_REFUSAL: Reason.CONTENT_REFUSED,
    }
    assert error_of(way.decide(0.1, WELL)).reason == expected[kind]


def test_a_refused_key_rules_out_its_provider() -> None:
    sibling = Deployment(provider="a", model="other")
    way = route(A, sibling, B)
    way.decide(0.0, WELL)
    way.failed(A, UpstreamFailure(K.KEY_FATAL), 0.1, has_output=False)
    assert tried(way.decide(0.1, WELL)) == B
    way.failed(B, UpstreamFailure(K.SILENT), 0.2, has_output=False)
    assert isinstance(way.decide(0.2, WELL), GiveUp)


def test_a_passing_failure_is_tried_again_after_a_pause() -> None:
    way = route(A)
    way.decide(0.0, WELL)
    way.failed(A, UpstreamFailure(K.TRANSIENT), 1.0, has_output=False)
    action = way.decide(1.0, WELL)
    assert isinstance(action, Wait)
    assert tried(way.decide(1.0 + action.delay_s, WELL)) == A
    way.failed(A, UpstreamFailure(K.TRANSIENT), 2.0, has_output=False)
    assert error_of(way.decide(2.0, WELL)).reason == Reason.UPSTREAM_UNAVAILABLE


def test_a_silent_deployment_is_never_waited_for_twice() -> None:
    way = route(A)
    way.decide(0.0, WELL)
    way.failed(A, UpstreamFailure(K.SILENT), 10.0, has_output=False)
    assert error_of(way.decide(10.0, WELL)).reason == Reason.UPSTREAM_UNAVAILABLE


def test_retry_after_is_waited_for_exactly_when_nothing_else_is_left() -> None:
    way = route(A)
    way.decide(0.0, WELL)
    way.failed(A, UpstreamFailure(K.KEY_THROTTLED, retry_after_s=5.0), 1.0, has_output=False)
    assert way.decide(1.0, WELL, jitter=1.0) == Wait(delay_s=5.0)
    assert tried(way.decide(6.0, WELL)) == A


@pytest.mark.parametrize(("retry_after_s", "deadline_s"), [(20.0, 15.0), (31.0, 300.0)])
def test_a_retry_after_beyond_deadline_or_patience_is_told(
    retry_after_s: float, deadline_s: float
) -> None:
    way = route(A, deadline_s=deadline_s)
    way.decide(0.0, WELL)
    failure = UpstreamFailure(K.KEY_THROTTLED, retry_after_s=retry_after_s)
    way.failed(A, failure, 0.0, has_output=False)
    error = error_of(way.decide(0.0, WELL))
    assert error.reason == Reason.UPSTREAM_RATE_LIMITED
    assert error.retry_after_s == retry_after_s


def test_a_deployment_that_another_request_found_busy_is_passed_over() -> None:
    way = route(A, B)
    assert tried(way.decide(0.0, {A: Fitness(parked_for_s=9.0)})) == B
    alone = route(A, deadline_s=5.0)
    error = error_of(alone.decide(0.0, {A: Fitness(parked_for_s=9.0)}))
    assert (error.reason, error.retry_after_s) == (Reason.UPSTREAM_RATE_LIMITED, 9.0)


def test_for_an_open_breaker_nobody_waits() -> None:
    is_open = Fitness(breaker=BreakerState.OPEN, breaker_retry_after_s=0.5)
    assert tried(route(A, B).decide(0.0, {A: is_open})) == B
    error = error_of(route(A).decide(0.0, {A: is_open}))
    assert (error.reason, error.retry_after_s) == (Reason.UPSTREAM_UNAVAILABLE, 0.5)


def test_a_probe_that_another_request_took_is_not_waited_for() -> None:
    way = route(A, B)
    way.withdraw(tried(way.decide(0.0, WELL)))
    assert tried(way.decide(0.0, WELL)) == B
    alone = route(A)
    alone.withdraw(tried(alone.decide(0.0, WELL)))
    assert error_of(alone.decide(0.0, WELL)).reason == Reason.UPSTREAM_UNAVAILABLE


def test_the_deadline_is_shared_among_those_that_can_follow() -> None:
    way = route(A, B, C)
    first = way.decide(0.0, WELL)
    assert isinstance(first, Try)
    assert first.silence_s == 10.0
    way.failed(A, UpstreamFailure(K.SILENT), 10.0, has_output=False)
    second = way.decide(10.0, WELL)
    assert isinstance(second, Try)
    assert second.silence_s == 10.0
    way.failed(B, UpstreamFailure(K.SILENT), 20.0, has_output=False)
    third = way.decide(20.0, WELL)
    assert isinstance(third, Try)
    assert third.silence_s == 10.0


def test_a_deployment_alone_may_take_all_that_is_left_up_to_the_limit() -> None:
    policy = RoutePolicy(first_token_timeout_s=12.0)
    action = route(A, policy=policy).decide(0.0, WELL)
    assert isinstance(action, Try)
    assert action.silence_s == 12.0
    action = route(A, policy=policy, deadline_s=5.0).decide(0.0, WELL)
    assert isinstance(action, Try)
    assert action.silence_s == 5.0


def test_what_cannot_be_asked_gets_no_share() -> None:
    is_open = Fitness(breaker=BreakerState.OPEN, breaker_retry_after_s=100.0)
    action = route(A, B).decide(0.0, {B: is_open})
    assert isinstance(action, Try)
    assert action.silence_s == 30.0


def test_what_asked_to_be_left_alone_beyond_the_deadline_gets_no_share() -> None:
    action = route(A, B, deadline_s=10.0).decide(0.0, {B: Fitness(parked_for_s=12.0)})
    assert isinstance(action, Try)
    assert action.silence_s == 10.0


def test_after_output_the_answer_begins_anew_or_breaks_off() -> None:
    for restart in (True, False):
        way = route(A, B, policy=RoutePolicy(restart_mid_stream=restart))
        way.decide(0.0, WELL)
        way.failed(A, UpstreamFailure(K.TRANSIENT), 1.0, has_output=True)
        action = way.decide(1.0, WELL)
        if restart:
            assert isinstance(action, Try)
            assert action.is_restart
        else:
            assert error_of(action).reason == Reason.STREAM_INTERRUPTED


def test_output_that_nobody_could_complete_is_reported_as_interrupted() -> None:
    way = route(A, B)
    way.decide(0.0, WELL)
    way.failed(A, UpstreamFailure(K.SILENT), 1.0, has_output=True)
    way.decide(1.0, WELL)
    way.failed(B, UpstreamFailure(K.KEY_FATAL), 2.0, has_output=False)
    assert error_of(way.decide(2.0, WELL)).reason == Reason.STREAM_INTERRUPTED


def test_a_prompt_too_long_goes_only_where_the_window_is_known_to_be_larger() -> None:
    small = Deployment(provider="s", model="m", context_window_tokens=1_000)
    equal = Deployment(provider="e", model="m", context_window_tokens=1_000)
    large = Deployment(provider="l", model="m", context_window_tokens=8_000)
    way = route(small, A, equal, large)
    way.decide(0.0, WELL)
    way.failed(small, UpstreamFailure(K.CONTEXT_TOO_LONG), 0.1, has_output=False)
    assert tried(way.decide(0.1, WELL)) == large
    way.failed(large, UpstreamFailure(K.CONTEXT_TOO_LONG), 0.2, has_output=False)
    assert error_of(way.decide(0.2, WELL)).reason == Reason.CONTEXT_TOO_LONG


def test_a_prompt_that_fits_nowhere_asks_nobody() -> None:
    tiny = Deployment(provider="t", model="m", context_window_tokens=50)
    assert tried(route(tiny, B).decide(0.0, WELL)) == B
    assert error_of(route(tiny).decide(0.0, WELL)).reason == Reason.CONTEXT_TOO_LONG


def test_a_passed_deadline_ends_the_request() -> None:
    assert error_of(route(A).decide(30.0, WELL)).reason == Reason.DEADLINE_EXCEEDED


def test_the_explanation_lists_whom_it_would_ask_first() -> None:
    is_open = Fitness(breaker=BreakerState.OPEN, breaker_retry_after_s=3.0)
    tiny = Deployment(provider="t", model="m", context_window_tokens=50)
    seen = route(A, tiny, B).explain(0.0, {A: is_open})
    assert [(c.deployment, c.eligible) for c in seen] == [(B, True), (A, False), (tiny, False)]
    assert "breaker" in seen[1].why
    assert "window" in seen[2].why


Fault = tuple[FailureKind, float | None, bool, float]
faults = st.lists(
    st.tuples(
        st.sampled_from(list(FailureKind)),
        st.none() | st.floats(0, 40),
        st.booleans(),
        st.floats(0, 1),
    ),
    min_size=12,
    max_size=12,
)
states = st.sampled_from(
    [
        Fitness(),
        Fitness(breaker=BreakerState.HALF_OPEN),
        Fitness(breaker=BreakerState.OPEN, breaker_retry_after_s=2.0),
        Fitness(parked_for_s=3.0),
    ]
)


@given(
    faults=faults,
    fitness=st.fixed_dictionaries({A: states, B: states, C: states}),
    max_attempts=st.integers(1, 5),
    per_deployment=st.integers(1, 3),
    deadline_s=st.floats(0.1, 60),
    jitter=st.floats(0, 1),
)
def test_no_series_of_failures_breaks_a_bound(
    faults: list[Fault],
    fitness: Mapping[Deployment, Fitness],
    max_attempts: int,
    per_deployment: int,
    deadline_s: float,
    jitter: float,
) -> None:
    policy = RoutePolicy(max_attempts=max_attempts, max_attempts_per_deployment=per_deployment)
    way = Route([A, B, C], policy, estimated_tokens=10, deadline_s=deadline_s)
    now_s, not_before_s = 0.0, dict.fromkeys((A, B, C), 0.0)
    tries = dict.fromkeys((A, B, C), 0)
    silent: set[Deployment] = set()
    for _ in range(40):
        action = way.decide(now_s, fitness, jitter=jitter)
        if isinstance(action, GiveUp):
            return
        if isinstance(action, Wait):
            assert 0 < action.delay_s <= policy.max_wait_s
            assert now_s + action.delay_s < deadline_s
            now_s += action.delay_s
            fitness = {}
            continue
        chosen = action.deployment
        kind, retry_after_s, has_output, part = faults[sum(tries.values())]
        tries[chosen] += 1
        assert now_s < deadline_s
        assert 0 < action.silence_s <= deadline_s - now_s + 1e-9
        assert action.silence_s <= policy.first_token_timeout_s
        assert now_s >= not_before_s[chosen] - 1e-9, "asked before its Retry-After"
        assert chosen not in silent, "a silent deployment was asked twice"
        assert sum(tries.values()) <= max_attempts
        assert tries[chosen] <= per_deployment
        now_s += action.silence_s * part
        failure = UpstreamFailure(kind, retry_after_s=retry_after_s)
        way.failed(chosen, failure, now_s, has_output=has_output)
        not_before_s[chosen] = now_s + (retry_after_s or 0.0)
        if kind is K.SILENT:
            silent.add(chosen)
        if kind in ENDS:
            assert isinstance(way.decide(now_s, fitness), GiveUp)
            return
    raise AssertionError("the route never ends")


@given(count=st.integers(1, 6), deadline_s=st.floats(1, 60))
def test_silence_everywhere_fits_into_one_deadline(count: int, deadline_s: float) -> None:
    candidates = [Deployment(provider=f"p{at}", model="m") for at in range(count)]
    way = Route(candidates, RoutePolicy(), estimated_tokens=1, deadline_s=deadline_s)
    now_s = 0.0
    while isinstance(action := way.decide(now_s, WELL), Try):
        now_s += action.silence_s
        way.failed(action.deployment, UpstreamFailure(K.SILENT), now_s, has_output=False)
    assert isinstance(action, GiveUp)
    assert now_s <= deadline_s + 1e-6
    assert way.attempts == min(count, 3)
