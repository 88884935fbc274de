"""Where the figures were measured: processor, GPUs, memory, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from musiq.hardware import available_cpus

from . import nvml

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


def gpus() -> list[dict[str, Any]]:
    """Each NVIDIA GPU as NVML tells, else as nvidia-smi does; an empty list without any."""
    return nvml.describe() or _nvidia_smi()


def _nvidia_smi() -> list[dict[str, Any]]:
    """Names and drivers, for machines with a driver and without nvidia-ml-py."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return [dict(zip(("name", "driver"), line.split(", "), strict=False)) for line in lines]


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
