"""OpenCV's own threads: none while a block asks for that, as many as before after the last one."""

from __future__ import annotations

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
