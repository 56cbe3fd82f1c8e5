"""Test the rate limit with an injected clock."""

import pytest

from web.gateway import rate_limit
from web.gateway.guard import caller
from web.gateway.rate_limit import RateLimit


class Clock:
    """A clock that moves only when a test sets it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("per_minute", "burst"), [(60, 10), (6, 1), (1, 1), (600, 100)])
def test_try_acquire_after_a_burst_returns_the_wait_for_the_next_token(per_minute: float, burst: int) -> None:
    clock = Clock()
    limit = RateLimit(per_minute, clock)
    assert [limit.try_acquire("a") for _ in range(burst)] == [0] * burst
    wait = limit.try_acquire("a")
    assert wait == max(1, 60 / per_minute)
    assert limit.try_acquire("b") == 0  # each caller has its own bucket
    clock.now += wait
    assert limit.try_acquire("a") == 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::9", "2001:db8:0:1::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_caller_of_an_ipv6_address_is_its_network(address: str, expected: str) -> None:
    assert caller((address, 50_000)) == expected


def test_try_acquire_of_a_rejected_caller_does_not_lengthen_the_wait() -> None:
    clock = Clock()
    limit = RateLimit(6, clock)
    assert [limit.try_acquire("a") for _ in range(5)] == [0, 10, 10, 10, 10]
    clock.now += 4
    assert limit.try_acquire("a") == 6


def test_rate_limit_keeps_a_bounded_number_of_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_CALLERS", 3)
    limit = RateLimit(1, Clock())
    for name in "abcd":
        assert limit.try_acquire(name) == 0
    assert limit.try_acquire("d") > 0
    assert limit.try_acquire("a") == 0  # its bucket was dropped
    assert len(limit._buckets) == 3
