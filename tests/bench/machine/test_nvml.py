"""NVIDIA GPUs, as a library that stands in for NVML tells of them."""

# ruff: noqa: N802, the names of FakeNvml are NVML's

from __future__ import annotations

import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from musiq_bench.machine import nvml


class FakeNvml:
    """NVML of a machine with two GPUs, the second of which takes memory and clocks up."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.looks: Counter[int] = Counter()

    def nvmlInit(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, gpu: int) -> str:
        return f"GPU {gpu}"

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:
        self.looks[gpu] += 1
        used = 1000 + (500 * min(self.looks[gpu], 3) if gpu == 1 else 0)
        return SimpleNamespace(used=used * 2**20, total=24000 * 2**20)

    def nvmlDeviceGetClockInfo(self, gpu: int, kind: int) -> int:
        return 300 if gpu == 0 else 1900

    def nvmlDeviceGetMaxClockInfo(self, gpu: int, kind: int) -> int:
        return 2100

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        raise self.NVMLError


def test_gpus_are_watched_while_they_work_and_described(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    with nvml.Watch() as watch:
        watch.timing = True
        deadline = time.monotonic() + 100
        while fake.looks[1] < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert watch.peak_mib == 1000
    assert watch.clock_mhz == 1900
    first, second = nvml.describe()
    assert (first["name"], first["driver"], second["memory_mib"], second["clock_mhz"]) == (
        "GPU 0",
        "580.1",
        24000,
        1900,
    )
    assert first["power_limit_w"] is None


def test_without_nvml_there_is_no_gpu_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with nvml.Watch() as watch:
        pass
    assert nvml.describe() == []
    assert watch.peak_mib is watch.clock_mhz is None
