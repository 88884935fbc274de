"""Videos: which files are some, which of their frames are scored, and how these are decoded."""

from musiq.video.choice import FrameChoice
from musiq.video.find import VIDEO_SUFFIXES, is_video
from musiq.video.frame import VideoFrame
from musiq.video.open import Video, open_video

__all__ = ["VIDEO_SUFFIXES", "FrameChoice", "Video", "VideoFrame", "is_video", "open_video"]
