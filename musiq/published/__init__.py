"""Published MUSIQ weights by name: `musiq-koniq` is a checkpoint, and a file to score with, made when first asked for."""

from musiq.published.resolve import checkpoint_path, describe, model_path

__all__ = ["checkpoint_path", "describe", "model_path"]
