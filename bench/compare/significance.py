"""What is a change and what is noise, between two latencies and between two rank correlations.

**Latency.** The change is the ratio of the p50s. Its 95% interval is Welch's t for the difference of the logarithms of the
rounds' medians, since what differs from round to round (drift, neighbours, another process's memory layout) is most of
the noise; a report's variance is taken no less than what its calls' own scatter gives a median, (1.2533 CV)²/n. A report
of one round has the latter alone. Two runs also differ by what no round shows, so less than LEAST_LATENCY is no change.

**Quality.** The difference of two coefficients has an interval from theirs (MOVER: Zou 2007, Psychological Methods 12).
A rank correlation that has none gets Bonett and Wright's (2000, Psychometrika 65). The intervals are combined as if the
images were other ones, which errs to the side of calling it noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from musiq.errors import MusiqError, pip_install

from ..report.latency import NOISY, Latency

LEAST_LATENCY = NOISY
"""Share of the old latency below which a change is none: what this benchmark calls steady."""

LEAST_SRCC = 5e-4
"""Change of a rank correlation below which it is none, however narrow the interval: half of the third decimal."""

SAME = "same"


@dataclass(frozen=True)
class Change:
    """From `old` to `new`, as `difference` (of latency: a share of `old`) in its 95% interval `low` to `high`; `word` is
    what to call it: faster, slower, better, worse or SAME."""

    old: float
    new: float
    difference: float
    low: float
    high: float
    word: str


def latency_change(old: Latency, new: Latency) -> Change | None:
    """The change of the p50: faster or slower where its interval leaves out 0 and it is LEAST_LATENCY or more; None where
    there is no p50. Raises MusiqError where scipy is missing."""
    try:
        from scipy.stats import t
    except ImportError as problem:
        raise MusiqError(f"--compare needs scipy, which is missing: {pip_install('bench')}.") from problem
    if not old.p50 or not new.p50:
        return None
    (first, free_first), (second, free_second) = _variance(old), _variance(new)
    variance = first + second
    free = variance**2 / (first**2 / free_first + second**2 / free_second) if variance else 1.0
    half = float(t.ppf(0.975, free)) * math.sqrt(variance)
    middle = math.log(new.p50 / old.p50)
    low, high = math.expm1(middle - half), math.expm1(middle + half)
    difference = new.p50 / old.p50 - 1
    sure = (low > 0 or high < 0) and abs(difference) >= LEAST_LATENCY
    return Change(old.p50, new.p50, difference, low, high, SAME if not sure else "slower" if low > 0 else "faster")


def _variance(latency: Latency) -> tuple[float, float]:
    """Variance of the logarithm of the median, and its degrees of freedom."""
    scatter = (1.2533 * (latency.cv or 0.0)) ** 2 / latency.n
    rounds = [math.log(median) for median in latency.rounds_p50]
    if len(rounds) < 2:
        return scatter, max(1.0, latency.n - 1.0)
    mean = sum(rounds) / len(rounds)
    between = sum((each - mean) ** 2 for each in rounds) / (len(rounds) - 1) / len(rounds)
    return max(between, scatter), len(rounds) - 1.0


def srcc_change(
    old: float,
    first: Sequence[float],
    new: float,
    second: Sequence[float],
    shown: tuple[float, float] | None = None,
) -> Change:
    """The change between two coefficients with their intervals; `shown` are the figures to show instead of the two."""
    difference = new - old
    low = difference - math.hypot(new - second[0], first[1] - old)
    high = difference + math.hypot(second[1] - new, old - first[0])
    sure = (low > 0 or high < 0) and abs(difference) >= LEAST_SRCC
    word = SAME if not sure else "better" if low > 0 else "worse"
    return Change(*(shown or (old, new)), difference, low, high, word)


def spearman_interval(value: float, n: int) -> tuple[float, float]:
    """95% interval of a rank correlation over `n` images: z = atanh(value), variance (1 + value²/2)/(n - 3)."""
    if n < 4 or abs(value) >= 1:
        return (-1.0, 1.0) if n < 4 else (value, value)
    z, half = math.atanh(value), 1.96 * math.sqrt((1 + value**2 / 2) / (n - 3))
    return math.tanh(z - half), math.tanh(z + half)
