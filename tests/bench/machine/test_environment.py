"""What a report says of the machine."""

from __future__ import annotations

import numpy as np

from musiq_bench.machine import environment


def test_peak_memory_and_cores_are_plausible() -> None:
    found = environment.describe()
    assert found["cores"] >= 1
    peak = environment.peak_memory_mib()
    assert peak is not None
    assert 10 < peak < 1024 * found["memory_gib"]
    assert found["versions"]["numpy"] == np.__version__
