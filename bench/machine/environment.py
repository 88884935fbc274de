"""The machine that figures are measured on: processor, GPUs, memory, versions of packages."""

from __future__ import annotations

import os
import platform
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
    """Describe this machine, for the report's `environment`.

    Returns:
        JSON values: platform, python, cpu (its name), cores (that this process may use), memory_gib, gpus (as
        `nvml.describe` has them), versions (of PACKAGES), variables (that set threads and devices), load_average (of 1, 5
        and 15 minutes). What cannot be found out is None or left out.
    """
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cores": available_cpus(),
        "memory_gib": memory_gib(),
        "gpus": nvml.describe(),
        "versions": versions(),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_", "CUDA_"))},
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def in_one_line(environment: dict[str, Any]) -> str:
    """Processor, cores and GPUs of a described machine: "a CPU, 2 cores, a GPU"."""
    gpus = [gpu["name"] for gpu in environment["gpus"]]
    return ", ".join([environment["cpu"], f"{environment['cores']} cores", *gpus])


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
    if (peak := _status_mib("VmHWM")) is not None:
        return peak
    try:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2**20 if platform.system() == "Darwin" else most / 1024
    except ImportError:
        return None


def memory_mib() -> float | None:
    """Resident memory of this process now, in MiB; None where that is not Linux's to tell."""
    return _status_mib("VmRSS")


def _status_mib(name: str) -> float | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None
