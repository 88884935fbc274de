"""Keeps OpenCV in its place: off stderr, where its decoders write, and on one thread beside a model that needs the CPUs."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2

PREFIXES = (
    b"libpng ",
    b"Corrupt JPEG data",
    b"Premature end of JPEG",
    b"Invalid SOS parameters",
    b"Warning: unknown JFIF",
    *(name + b": " for name in (b"LZWDecode", b"PackBitsDecode", b"ZIPDecode", b"DumpModeDecode", b"JPEGLib")),
    *(b"TIFF" + verb for verb in (b"Fill", b"Read", b"Fetch")),
)
"""How the lines of libpng, libjpeg and libtiff begin; whatever else the process prints passes."""


@contextmanager
def without_decoder_noise() -> Iterator[None]:
    """Let stderr through, without the lines of image decoders, until the end of the block: `musiq.images.decode` raises
    what they write, with more context.

    Python's own stderr goes straight to where it went before, so that it stays a terminal if it was one. Nothing happens
    where Python's stderr is not the process's (under a test runner, without a console).
    """
    if not _is_the_process_stderr():
        yield
        return
    real = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    relay = threading.Thread(target=_relay, args=(reading, real), daemon=True)
    relay.start()
    before = sys.stderr
    try:
        with open(real, "w", buffering=1, errors="backslashreplace", closefd=False) as sys.stderr:
            yield
    finally:
        sys.stderr = before
        os.dup2(real, 2)  # closes the pipe's last writing end, which ends the relay
        relay.join(timeout=1)
        os.close(real)


def _is_the_process_stderr() -> bool:
    stream = sys.stderr
    try:
        return stream is not None and stream.fileno() == 2 and stream is sys.__stderr__
    except (OSError, ValueError):
        return False


def _relay(reading: int, real: int) -> None:
    with open(reading, "rb") as lines:
        for line in lines:
            # libpng ends its lines by a write of their own, which other threads' lines come between: blank ones are its.
            if line.strip() and not line.startswith(PREFIXES):
                os.write(real, line)


@dataclass
class _OneThread:
    """How many blocks want OpenCV on one thread now, and how many threads it had before the first of them."""

    blocks: int = 0
    threads_before: int = 0


_changing, _one_thread = threading.Lock(), _OneThread()


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own, in the whole process, while any such block is open.

    Where several threads decode beside a model, OpenCV's (as many as CPUs, for each image's conversions) wait spinning
    on the CPUs that the model needs.
    """
    with _changing:
        if not _one_thread.blocks:
            _one_thread.threads_before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _one_thread.blocks += 1
    try:
        yield
    finally:
        with _changing:
            _one_thread.blocks -= 1
            if not _one_thread.blocks:
                cv2.setNumThreads(_one_thread.threads_before)
