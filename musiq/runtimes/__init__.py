"""Runtimes: each opens one kind of model file and is one callable, uint8 images in, float32 scores out."""

from musiq.runtimes.base import Runtime
from musiq.runtimes.registry import open_runtime

__all__ = ["Runtime", "open_runtime"]
