"""The table of public datasets: what is said of each, and what is said of one that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from musiq import datasets
from musiq.datasets.public import DATASETS, describe, read_named
from musiq.errors import MusiqError


def test_the_table_is_part_of_the_packages_face() -> None:
    assert datasets.DATASETS is DATASETS


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder_is_told_what_it_lacks_and_where_that_is_published(tmp_path: Path, name: str) -> None:
    with pytest.raises(MusiqError, match=f"^{tmp_path} has no ") as caught:
        read_named(name, tmp_path)
    assert DATASETS[name].home in str(caught.value)
    assert "\n" not in str(caught.value)
    lacking = (
        str(caught.value).split(" has no ")[1].split(" nor ")[0].removesuffix(f". {DATASETS[name].title}'s authors")
    )
    assert Path(lacking.split(". ")[0]).name in DATASETS[name].needs


def test_every_dataset_is_listed_with_what_it_needs_and_where_it_comes_from() -> None:
    listed = describe()
    for name, named in DATASETS.items():
        assert f"{name}: {named.title}\n" in listed
        for fact in (named.needs, named.split, named.home, named.terms):
            assert fact in listed


def test_an_unknown_dataset_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match=r"no dataset 'tid2013' here; known are koniq10k, spaq, ava"):
        read_named("tid2013", tmp_path)
