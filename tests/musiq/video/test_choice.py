"""Which frames a choice means: by time, each once."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import accumulate

import pytest

from musiq.errors import MusiqError
from musiq.video import FrameChoice

EVEN = [Fraction(number, 25) for number in range(16)]
UNEVEN = [Fraction(ms, 1000) for ms in (0, 40, 80, 500, 1500, 1540)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("all", list(range(16))),
        ("8", [1, 3, 5, 7, 9, 11, 13, 15]),
        ("1", [8]),
        (3, [2, 8, 13]),
        ("100", list(range(16))),
        ("every=0.2s", [0, 5, 10, 15]),
        ("every=0.2", [0, 5, 10, 15]),
        ("every=100s", [0]),
        (None, [1, 3, 5, 7, 9, 11, 13, 15]),
    ],
)
def test_frames_are_those_on_show_at_the_moments_chosen(text: str | int | None, numbers: list[int]) -> None:
    assert FrameChoice.parse(text).numbers(EVEN, Fraction(16, 25)) == numbers


def test_long_frames_count_as_long_as_they_last() -> None:
    # Moments 0.25, 0.75, 1.25, 1.75: the frame of 0.08 is on show until 0.5, that of 0.5 until 1.5.
    assert FrameChoice.parse("4").numbers(UNEVEN, Fraction(2)) == [2, 3, 5]
    assert FrameChoice.parse("every=0.5s").numbers(UNEVEN, Fraction(2)) == [0, 3, 4]


def test_any_times_give_the_frames_of_each_moment_looked_up_alone() -> None:
    draw = random.Random(0)
    for _ in range(300):
        steps = [Fraction(draw.choice((0, 1, 2, 40, 500)), 1000) for _ in range(draw.randint(1, 9))]
        *times, end = accumulate(steps, initial=Fraction(0))
        count, every = draw.randint(1, 30), Fraction(draw.randint(1, 600), 1000)
        even = [end * (2 * place + 1) / (2 * count) for place in range(count)]
        stepped = [every * place for place in range(max(1, -(-end // every)))]
        for choice, moments in ((FrameChoice(count), even), (FrameChoice(0, every), stepped)):
            wanted = {max(number for number, time in enumerate(times) if time <= moment) for moment in moments}
            assert choice.numbers(times, end) == sorted(wanted)


@pytest.mark.parametrize("text", ["999999999", "every=0.000000001s"])
def test_far_more_moments_than_frames_take_no_time(text: str) -> None:
    assert FrameChoice.parse(text).numbers(UNEVEN, Fraction(1000)) == list(range(6))


@pytest.mark.parametrize("text", ["", "0", "-1", "some", "every=0s", "every=", "every=1m", "1.5", True, "9999999999"])
def test_what_names_no_choice_is_refused(text: str) -> None:
    with pytest.raises(MusiqError, match=r"There is no choice of frames .*; expected all, a number .*every=1\.5s"):
        FrameChoice.parse(text)


@pytest.mark.parametrize("text", ["all", "8", "every=1.5s"])
def test_a_choice_is_named_as_it_is_written(text: str) -> None:
    assert str(FrameChoice.parse(text)) == text
    assert str(FrameChoice.parse(None)) == "8"


def test_a_row_says_how_many_of_how_many() -> None:
    assert FrameChoice.parse("8").told(8, 240) == "8 of 240 frames evenly spread"
    assert FrameChoice.parse("every=1.5s").told(7, 240) == "7 of 240 frames every 1.5 s"
    assert FrameChoice.parse("8").told(5, 5) == FrameChoice.parse("all").told(5, 5) == "all 5 frames"
    assert FrameChoice.parse("8").told(1, 1) == "its one frame"
