"""Scoring images with an artifact: decoding ahead of the model, rows in the order of the sources."""

from musiq.scoring.options import ScorerOptions
from musiq.scoring.row import Row
from musiq.scoring.scorer import Scorer

__all__ = ["Row", "Scorer", "ScorerOptions"]
