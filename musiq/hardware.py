"""This machine: how many CPUs a process may use, what their instructions do to scores, NVIDIA's driver."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path


def is_x86() -> bool:
    """Whether this machine's CPU is of Intel's and AMD's kind, with 64 bits."""
    return platform.machine().lower() in ("x86_64", "amd64")


def adds_int8_exactly() -> bool | None:
    """Whether sums of int8 products are exact here where weights use all 8 bits.

    x86 CPUs without VNNI add two products in 16 bits (VPMADDUBSW), which overflows at 255 * 127 * 2 and cannot at
    255 * 64 * 2, with weights of 7 bits: onnxruntime.ai/docs/performance/model-optimizations/quantization.html.

    Returns:
        False for x86 CPUs without VNNI; None for x86 CPUs of a system that does not tell what they have.
    """
    if not is_x86():
        return True
    try:
        flags = CPU_FACTS.read_text()
    except OSError:
        return None
    return bool(re.search(r"\b(avx512_vnni|avx_vnni)\b", flags))


CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CPU_FACTS = Path("/proc/cpuinfo")


def available_cpus() -> int:
    """CPUs that this process may keep busy: the smaller of its affinity and its cgroup's quota.

    `os.cpu_count()` is the host's count: with it a container allowed 2 of 64 CPUs starts 64 threads that wait in turns.

    Returns:
        A whole number of CPUs, at least 1.
    """
    # macOS and Windows have no sched_getaffinity.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpus()
    return max(1, allowed if quota is None else min(allowed, round(quota)))


def cgroup_cpus() -> float | None:
    """CPUs that the cgroups of this process allow (cgroup v2 cpu.max, v1 cfs quota), None where nothing limits it."""
    quotas = [quota for folder in _cgroups() if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _cgroups() -> list[Path]:
    """Every cgroup from this process's own up to the root: a limit on any of them holds."""
    folders = [CGROUP, CGROUP / "cpu"]  # seen from inside a container, its own cgroup is the root
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            top = CGROUP if controllers == "" else CGROUP / "cpu"
            inner = top / path.strip("/")
            folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return folders


def _quota(folder: Path) -> float | None:
    """CPU time allowed per time passed in one cgroup, None for no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()[:2]  # "200000 100000" or "max 100000"
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()  # -1 for no limit
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):
        return None


def cuda_index(device: str) -> int:
    """The number of the GPU that a device names: 1 for "cuda:1"; 0 for "cuda" and "auto"."""
    return int(device.partition(":")[2] or 0)


DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"


def why_no_driver() -> str:
    """Why NVIDIA's driver cannot be used; empty where it can be loaded."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return f"there is no NVIDIA driver here ({DRIVER} cannot be loaded)"
    return ""
