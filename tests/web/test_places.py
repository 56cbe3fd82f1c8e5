"""Test how places are divided among callers."""

from contextlib import ExitStack

import pytest

from web.gateway.places import NoPlaceError, Places


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def take_all(places: Places, caller: str, held: ExitStack) -> int:
    """Take places for a caller until there is none left, and return their number."""
    number = 0
    try:
        while True:
            held.enter_context(places.take(caller))
            number += 1
    except NoPlaceError:
        return number


def test_caller_alone_may_take_all_places() -> None:
    places = Places(8)
    with ExitStack() as held:
        assert take_all(places, "a", held) == places.taken == 8
    assert places.taken == 0
    with places.take("a"):
        assert places.taken == 1


def test_second_caller_finds_places_as_soon_as_the_first_ones_work_ends() -> None:
    places = Places(8)
    with ExitStack() as greedy, ExitStack() as late:
        assert take_all(places, "a", greedy) == 8
        assert take_all(places, "b", late) == 0
        greedy.close()
        assert take_all(places, "a", greedy) == 6
        assert take_all(places, "b", late) == 2


def test_every_caller_may_take_its_equal_share() -> None:
    places = Places(8)
    with ExitStack() as held:
        for caller in ("a", "b", "c", "d"):
            held.enter_context(places.take(caller))
        assert [take_all(places, caller, held) for caller in ("a", "b", "c", "d")] == [2, 1, 1, 0]
        assert places.taken == 8


def test_caller_who_asks_no_more_gives_its_share_back() -> None:
    clock = Clock()
    places = Places(4, 10, clock)
    with places.take("b"):
        pass
    with ExitStack() as held:
        assert take_all(places, "a", held) == 3
    clock.now = 11
    with ExitStack() as held:
        assert take_all(places, "a", held) == 4


@pytest.mark.parametrize("total", [0, 1])
def test_few_places_are_never_exceeded(total: int) -> None:
    places = Places(total)
    with ExitStack() as held:
        assert take_all(places, "a", held) + take_all(places, "b", held) == total


def test_place_is_free_after_a_failure() -> None:
    places = Places(1)
    with pytest.raises(ValueError, match="boom"), places.take("a"):
        raise ValueError("boom")
    assert places.taken == 0
