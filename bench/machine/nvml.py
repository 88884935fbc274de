"""NVIDIA GPUs as their driver's management library (NVML, package nvidia-ml-py) sees them; nothing where it is missing."""

from __future__ import annotations

import importlib
import threading
from statistics import median
from types import TracebackType
from typing import Any

INTERVAL_S = 0.05
"""Between two looks at the GPUs; a look is short, and a runtime's memory pools do not shrink while it is open."""


def nvml() -> Any | None:
    """NVML, ready to be asked; None without its package, or without a driver."""
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
    except Exception:  # NVMLError in many kinds, and ImportError: each means that there is none
        return None
    return library


def describe() -> list[dict[str, Any]]:
    """Name, driver, memory (MiB), clocks (MHz, now and highest) and power limit (W) of each GPU; [] without any."""
    library = nvml()
    if library is None:
        return []
    driver = _text(library.nvmlSystemGetDriverVersion())
    return [
        {"name": _text(library.nvmlDeviceGetName(gpu)), "driver": driver, **_facts(library, gpu)}
        for gpu in _all(library)
    ]


def _facts(library: Any, gpu: Any) -> dict[str, Any]:
    ask = {
        "memory_mib": lambda: library.nvmlDeviceGetMemoryInfo(gpu).total // 2**20,
        "clock_mhz": lambda: library.nvmlDeviceGetClockInfo(gpu, library.NVML_CLOCK_SM),
        "highest_clock_mhz": lambda: library.nvmlDeviceGetMaxClockInfo(gpu, library.NVML_CLOCK_SM),
        "power_limit_w": lambda: library.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
    }
    return {name: _or_none(library, question) for name, question in ask.items()}


def _or_none(library: Any, question: Any) -> Any:
    """The answer; None to what this GPU does not tell, as virtual ones often do not."""
    try:
        return question()
    except library.NVMLError:
        return None


def _all(library: Any) -> list[Any]:
    return [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Watch:
    """Looks at all GPUs while it is entered, from a thread of its own.

    `peak_mib`: the most memory that all of them together held beyond what they held at the start, by whomever; None
    without NVML. `clock_mhz`: median SM clock, while `timing` was set, of the GPU whose memory grew most.
    """

    def __init__(self) -> None:
        self._library = nvml()
        self._gpus = _all(self._library) if self._library else []
        self._memory: list[list[float]] = []
        self._clocks: list[list[float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.timing = False

    def __enter__(self) -> Watch:
        if self._gpus:
            self._look()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._gpus:
            self._over.set()
            self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        library: Any = self._library
        used = [
            _or_none(library, lambda gpu=gpu: library.nvmlDeviceGetMemoryInfo(gpu).used / 2**20) for gpu in self._gpus
        ]
        self._memory.append([each or 0.0 for each in used])
        if self.timing:
            clock = library.NVML_CLOCK_SM
            asked = [
                _or_none(library, lambda gpu=gpu: library.nvmlDeviceGetClockInfo(gpu, clock)) for gpu in self._gpus
            ]
            self._clocks.append([each or 0.0 for each in asked])

    @property
    def peak_mib(self) -> float | None:
        return max(map(sum, self._memory)) - sum(self._memory[0]) if self._memory else None

    @property
    def clock_mhz(self) -> float | None:
        if not self._clocks:
            return None
        grown = [max(held) - held[0] for held in zip(*self._memory, strict=True)]
        return median(look[grown.index(max(grown))] for look in self._clocks) or None
