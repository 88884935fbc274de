"""The public datasets by name: how each is read, what it needs on disk, whose its split is, where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from musiq.datasets import readers
from musiq.datasets.dataset import Dataset
from musiq.datasets.readers import LacksError
from musiq.errors import MusiqError


@dataclass(frozen=True)
class Named:
    """A public dataset: how its folder is read, what must lie there, where its authors publish it, who made its split,
    and under which terms its images may be used, as far as its authors say."""

    title: str
    read: Callable[[Path], Dataset]
    needs: str
    home: str
    split: str
    terms: str


def read_named(name: str, root: Path) -> Dataset:
    """The dataset of that name (a key of DATASETS) in the folder `root`; its images lie at `root / image` of the result.

    Raises MusiqError for a name that is not known, and for a file that is missing, with where its authors publish it.
    """
    if name not in DATASETS:
        raise MusiqError(f"There is no dataset {name!r} here; known are {', '.join(DATASETS)} (train.py --list-data).")
    named = DATASETS[name]
    try:
        dataset = named.read(root)
    except LacksError as problem:
        raise MusiqError(f"{problem}. {named.title}'s authors publish it at {named.home}; put it there.") from problem
    twice = [image for image, count in Counter(item.image for item in dataset.items).items() if count > 1]
    if twice or not dataset.items:
        what = f"{twice[0]} is there twice" if twice else "there is no image in its table"
        raise MusiqError(f"{named.title} in {root}: {what}. Get the table anew at {named.home}.")
    return dataset


def describe() -> str:
    """What each dataset needs on disk, for `train.py --list-data`."""
    blocks = []
    for name, named in DATASETS.items():
        facts = (f"needs  {named.needs}", f"split  {named.split}", f"terms  {named.terms}", f"from   {named.home}")
        blocks.append("\n".join([f"{name}: {named.title}", *(f"    {fact}" for fact in facts)]))
    return "\n".join([*blocks, "", "python train.py --data NAME --root DIR; several: --data A=DIR --data B=DIR"])


OWN = "drawn from the seed (its authors publish none)"
ASK = "see its authors' page"

DATASETS: dict[str, Named] = {
    "koniq10k": Named(
        "KonIQ-10k",
        readers.read_koniq,
        "koniq10k_distributions_sets.csv (or koniq-10k.txt) and 1024x768/",
        "http://database.mmsp-kn.de/koniq-10k-database.html",
        "its authors' train, validation and test; for koniq-10k.txt drawn by scene",
        "photographs under Creative Commons, for research; table MIT",
    ),
    "spaq": Named(
        "SPAQ",
        readers.read_spaq,
        "Annotations/MOS and Image attribute scores.xlsx (or the same as .csv) and TestImage/",
        "https://github.com/h4nwei/SPAQ",
        OWN,
        ASK,
    ),
    "ava": Named(
        "AVA, 10 ratings",
        readers.read_ava,
        "AVA.txt, aesthetics_image_lists/generic_test.jpgl and images/ (or image/)",
        "https://github.com/imfing/ava_downloader, which mirrors its authors' package",
        "its authors' generic test list, the rest train",
        "photographs belong to their authors at dpchallenge.com",
    ),
    "paq2piq": Named(
        "PaQ-2-PiQ (FLIVE), whole images",
        readers.read_paq2piq,
        "labels_image.csv and the folders that it names, such as voc_emotic_ava/ (or database/ with all of that)",
        "https://github.com/niu-haoran/FLIVE_Database",
        "drawn from the seed (the table has none)",
        ASK,
    ),
    "live-itw": Named(
        "LIVE in the Wild Image Quality Challenge",
        readers.read_live_itw,
        "Data/AllImages_release.mat, AllMOS_release.mat, AllStdDev_release.mat and Images/",
        "https://live.ece.utexas.edu/research/ChallengeDB/",
        OWN,
        ASK,
    ),
    "kadid10k": Named(
        "KADID-10k",
        readers.read_kadid,
        "dmos.csv and images/",
        "http://database.mmsp-kn.de/kadid-10k-database.html",
        "drawn from the seed by reference image (its authors publish none)",
        ASK,
    ),
    "biq2021": Named(
        "BIQ2021",
        readers.read_biq2021,
        "Train (Images and MOS).csv, Test (Images and MOS).csv and Images/",
        "https://github.com/nisarahmedrana/BIQ2021",
        "its authors' train and test",
        "for research, not to be redistributed",
    ),
}
