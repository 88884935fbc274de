"""Which frames of a video are scored: all, so many evenly spread, or one every so many seconds."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from musiq.errors import MusiqError

USUAL = 8
"""Frames of a video that are scored unless something else is said."""


@dataclass(frozen=True)
class FrameChoice:
    """A choice of frames.

    Attributes:
        count: How many, evenly spread over the time that the video takes; 0 for no such limit.
        every_s: Seconds from one to the next; 0 for no such steps. With neither it is all.
    """

    count: int = USUAL
    every_s: Fraction = Fraction(0)

    @classmethod
    def parse(cls, text: str | int | None) -> FrameChoice:
        """The choice that a text names: "all", "8", "every=1.5s"; None is the usual one.

        Raises:
            MusiqError: It names none.
        """
        if text is None:
            return cls()
        if text == "all":
            return cls(0)
        if re.fullmatch(r"[1-9][0-9]{0,8}", str(text)) and not isinstance(text, bool):
            return cls(int(text))
        found = re.fullmatch(r"every=([0-9]{1,9}(?:\.[0-9]{1,9})?)s?", str(text))
        if found is None or not (step := Fraction(found[1])):
            raise MusiqError(
                f"There is no choice of frames {text!r}; expected all, a number (8: so many, evenly spread), or every=1.5s."
            )
        return cls(0, step)

    def __str__(self) -> str:
        return f"every={float(self.every_s):.9g}s" if self.every_s else str(self.count or "all")

    def numbers(self, times: Sequence[Fraction], end: Fraction) -> list[int]:
        """The frames that are on show at the moments chosen, each once: with variable rates long ones count as long as
        they last.

        Args:
            times: Of the frames, in order, in seconds, from 0 on; at least one.
            end: When the last one ends.

        Returns:
            Their numbers, from 0 on, in order.
        """
        if not self.count and not self.every_s:
            return list(range(len(times)))
        step = end / self.count if self.count else self.every_s
        first = step / 2 if self.count else Fraction(0)
        moments = self.count or max(1, -(-end // step))
        numbers, moment = list[int](), 0
        while moment < moments:
            numbers.append(bisect_right(times, first + step * moment) - 1)
            if numbers[-1] == len(times) - 1:
                break
            # Those within this frame, however many, are passed over.
            moment = ceil((times[numbers[-1] + 1] - first) / step)
        return numbers

    def told(self, chosen: int, total: int) -> str:
        """What a row says of it: "8 of 240 frames evenly spread"."""
        if chosen == total:
            return f"all {total} frames" if total > 1 else "its one frame"
        how = f"every {float(self.every_s):.9g} s" if self.every_s else "evenly spread"
        return f"{chosen} of {total} frames {how}"
