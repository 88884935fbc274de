"""OpenCV's own threads: none while a block asks for that, as many as before after the last one. Its decoders' lines."""

from __future__ import annotations

import subprocess
import sys

import cv2

from musiq.images.opencv import one_opencv_thread


def test_opencv_has_one_thread_until_the_last_block_ends() -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        with one_opencv_thread():
            with one_opencv_thread():
                assert cv2.getNumThreads() == 1
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_the_lines_of_decoders_are_left_out_of_stderr_and_others_pass() -> None:
    script = """
import os
from musiq.images.opencv import without_decoder_noise
with without_decoder_noise():
    for line in (b"libpng error: x", b"LZWDecode: Not enough data", b"TIFFFillStrip: Read error", b"a driver: hello"):
        os.write(2, line + bytes([10]))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stderr == "a driver: hello\n"
