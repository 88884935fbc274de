"""Where the figures were measured: processor, GPUs, memory, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from musiq.threads import available_cpus

PACKAGES = (
    "musiq",
    "numpy",
    "opencv-python-headless",
    "torch",
    "torchvision",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)


def describe() -> dict[str, Any]:
    """Facts about this machine as JSON values; what cannot be found out is None or left out."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cores": available_cpus(),
        "memory_gib": memory_gib(),
        "gpus": gpus(),
        "versions": versions(),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_", "CUDA_"))},
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def cpu_model() -> str:
    """The processor's name as Linux gives it, else as Python does."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def gpus() -> list[dict[str, str]]:
    """Name, driver, memory and clocks of each NVIDIA GPU; an empty list without any."""
    fields = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "power.limit")
    return [dict(zip(fields, line.split(", "), strict=False)) for line in _nvidia_smi(*fields)]


def device_memory_mib() -> float | None:
    """MiB taken on all NVIDIA GPUs together, by whomever; None without one."""
    taken = _nvidia_smi("memory.used")
    try:
        return sum(float(line.split()[0]) for line in taken) if taken else None
    except (ValueError, IndexError):
        return None


def _nvidia_smi(*fields: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far, in MiB.

    Linux's VmHWM counts from the start of the program; `ru_maxrss` would also count the parent that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if platform.system() == "Darwin" else peak / 1024
    except ImportError:
        return None
