"""What the instructions of this machine's CPU do to scores and to time."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path


def is_x86(machine: Callable[[], str] = platform.machine) -> bool:
    return machine().lower() in ("x86_64", "amd64")


def adds_int8_exactly(machine: Callable[[], str] = platform.machine) -> bool | None:
    """Whether sums of int8 products are exact here where weights use all 8 bits; None where nothing tells.

    x86 CPUs without VNNI add two products in 16 bits (VPMADDUBSW), which overflows at 255 * 127 * 2 and cannot at
    255 * 64 * 2, with weights of 7 bits: onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
    """
    if not is_x86(machine):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    return bool(re.search(r"\b(avx512_vnni|avx_vnni)\b", flags))
