"""How many CPUs this process may really use: what a container or a batch system allows, not what the host has."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Whole CPUs that this process may keep busy, at least 1: the smaller of its affinity and its cgroup's quota.

    `os.cpu_count()` is the host's count: with it a container allowed 2 of 64 CPUs starts 64 threads that wait in turns.
    """
    # macOS and Windows have no sched_getaffinity.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpus()
    return max(1, allowed if quota is None else min(allowed, round(quota)))


def cgroup_cpus(root: Path = CGROUP, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs that the cgroups of this process allow (cgroup v2 cpu.max, v1 cfs quota), None where nothing limits it."""
    quotas = [quota for folder in _folders(root, membership) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(root: Path, membership: Path) -> list[Path]:
    """Every cgroup from this process's own up to the root: a limit on any of them holds."""
    folders = [root, root / "cpu"]  # seen from inside a container, its own cgroup is the root
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            top = root if controllers == "" else root / "cpu"
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
