"""How many CPUs this process may really use, by what a container or a batch system allows, and who leaves them to whom."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

CGROUP = Path("/sys/fs/cgroup")

_turns = threading.Lock()
_one_opencv_thread = {"users": 0, "before": 0}


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


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own, in the whole process, while any such block is open.

    Where several threads decode beside a model, OpenCV's (as many as CPUs, for each picture's conversions) wait spinning
    on the CPUs that the model needs: without them a small model on 2 CPUs scored 11% more pictures a second.
    """
    state = _one_opencv_thread
    with _turns:
        if not state["users"]:
            state["before"] = cv2.getNumThreads()
            cv2.setNumThreads(1)
        state["users"] += 1
    try:
        yield
    finally:
        with _turns:
            state["users"] -= 1
            if not state["users"]:
                cv2.setNumThreads(state["before"])
