"""What this process does with memory that was freed."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's malloc.h; parameters are C ints.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
LARGEST = 2**31 - 1
AHEAD = 256 * 2**20


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep freed blocks for the next ones, in the whole process; whether it does.

    By default blocks of 32 MiB and more are mapped from the kernel anew each time, and every page of them costs a fault:
    PyTorch on CPUs, whose activations are such blocks, spent half of a training step on that on one virtual machine.
    The process keeps the most that it ever used until it ends. Left alone where the user tuned malloc by environment,
    and elsewhere than on glibc.
    """
    tuned = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if tuned or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: LARGEST, M_TOP_PAD: AHEAD}
    return {mallopt(name, value) for name, value in wanted.items()} == {1}
