"""Running a command in a terminal, and what a person sees there."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest


def shown_in_terminal(command: Sequence[str], streams: Sequence[str], **how: Any) -> tuple[int, bytes]:
    """The exit code of `command`, whose `streams` ("stdout", "stderr") are a terminal, and the plain text that it shows."""
    pty = pytest.importorskip("pty", reason="needs the terminals of Unix")
    reading, terminal = pty.openpty()
    process = subprocess.Popen(command, **dict.fromkeys(streams, terminal), **how)
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while data := os.read(reading, 65536):
            seen += data
    os.close(reading)
    return process.wait(timeout=300), re.sub(rb"\x1b\[[\d;?]*[A-Za-z]", b"", seen)
