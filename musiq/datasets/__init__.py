"""Labelled images: label files, the public datasets by name, splits, near duplicates. Needs no torch."""

from musiq.datasets.dataset import Dataset, Labelled
from musiq.datasets.label_files import read_labels
from musiq.datasets.public import DATASETS

__all__ = ["DATASETS", "Dataset", "Labelled", "read_labels"]
