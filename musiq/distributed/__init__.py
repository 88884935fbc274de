"""Scoring on many machines: inside Ray Data, on a Ray cluster from the command line, and in Spark's workers."""

from musiq.distributed.batch_scorer import BatchScorer, kept_scorer

__all__ = ["BatchScorer", "kept_scorer"]
