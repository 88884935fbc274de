"""MUSIQ as a metric or loss of PyTorch: float images in [0, 1] in, scores out. Importing this imports torch."""

from musiq.torch_metric.metric import MUSIQ, Metric

__all__ = ["MUSIQ", "Metric"]
