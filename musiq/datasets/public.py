"""The public datasets by name: how each is read, what it needs on disk, whose its split is, where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from musiq.datasets import public_readers
from musiq.datasets.dataset import Dataset
from musiq.datasets.public_readers import LacksError
from musiq.errors import MusiqError


@dataclass(frozen=True)
class PublicDataset:
    """What is known of a public dataset.

    Attributes:
        title: Its name for people.
        read: Reads its folder.
        needs: What must lie in that folder, for people.
        home: The address where its authors publish it.
        split: Who made its split, for people.
        terms: Under which its images may be used, as far as its authors say.
    """

    title: str
    read: Callable[[Path], Dataset]
    needs: str
    home: str
    split: str
    terms: str


def read_named(name: str, root: Path) -> Dataset:
    """Read a public dataset as its authors publish it.

    Args:
        name: A key of DATASETS, such as "koniq10k".
        root: The folder with its files, unpacked.

    Returns:
        Its labelled images, whose paths are `dataset.root / image`; splits only where the authors publish them.

    Raises:
        MusiqError: The name is not known, a file is missing (with where its authors publish it), or a table cannot be
            read (with its row).
    """
    if name not in DATASETS:
        raise MusiqError(f"There is no dataset {name!r} here; known are {', '.join(DATASETS)} (train.py --list-data).")
    public = DATASETS[name]
    try:
        dataset = public.read(root)
    except LacksError as problem:
        raise MusiqError(f"{problem}. {public.title}'s authors publish it at {public.home}; put it there.") from problem
    twice = [image for image, count in Counter(item.image for item in dataset.items).items() if count > 1]
    if twice or not dataset.items:
        what = f"{twice[0]} is there twice" if twice else "there is no image in its table"
        raise MusiqError(f"{public.title} in {root}: {what}. Get the table anew at {public.home}.")
    return dataset


def describe() -> str:
    """What each dataset needs on disk, for `train.py --list-data`."""
    blocks = []
    for name, public in DATASETS.items():
        facts = (f"needs  {public.needs}", f"split  {public.split}", f"terms  {public.terms}", f"from   {public.home}")
        blocks.append("\n".join([f"{name}: {public.title}", *(f"    {fact}" for fact in facts)]))
    return "\n".join([*blocks, "", "python train.py --data NAME --root DIR; several: --data A=DIR --data B=DIR"])


OWN = "drawn from the seed (its authors publish none)"
ASK = "see its authors' page"

DATASETS: dict[str, PublicDataset] = {
    "koniq10k": PublicDataset(
        "KonIQ-10k",
        public_readers.read_koniq,
        "koniq10k_distributions_sets.csv (or koniq-10k.txt) and 1024x768/",
        "http://database.mmsp-kn.de/koniq-10k-database.html",
        "its authors' train, validation and test; for koniq-10k.txt drawn by scene",
        "photographs under Creative Commons, for research; table MIT",
    ),
    "spaq": PublicDataset(
        "SPAQ",
        public_readers.read_spaq,
        "Annotations/MOS and Image attribute scores.xlsx (or the same as .csv) and TestImage/",
        "https://github.com/h4nwei/SPAQ",
        OWN,
        ASK,
    ),
    "ava": PublicDataset(
        "AVA, 10 ratings",
        public_readers.read_ava,
        "AVA.txt, aesthetics_image_lists/generic_test.jpgl and images/ (or image/)",
        "https://github.com/imfing/ava_downloader, which mirrors its authors' package",
        "its authors' generic test list, the rest train",
        "photographs belong to their authors at dpchallenge.com",
    ),
    "paq2piq": PublicDataset(
        "PaQ-2-PiQ (FLIVE), whole images",
        public_readers.read_paq2piq,
        "labels_image.csv and the folders that it names, such as voc_emotic_ava/ (or database/ with all of that)",
        "https://github.com/niu-haoran/FLIVE_Database",
        "drawn from the seed (the table has none)",
        ASK,
    ),
    "clive": PublicDataset(
        "CLIVE, the LIVE In the Wild Image Quality Challenge Database",
        public_readers.read_clive,
        "Data/AllImages_release.mat, AllMOS_release.mat, AllStdDev_release.mat and Images/",
        "https://live.ece.utexas.edu/research/ChallengeDB/",
        f"{OWN}; drawn here once: --split configs/clive-split.csv",
        "for any purpose, where its copyright notice goes along and publications acknowledge LIVE at UT Austin",
    ),
    "kadid10k": PublicDataset(
        "KADID-10k",
        public_readers.read_kadid,
        "dmos.csv and images/",
        "http://database.mmsp-kn.de/kadid-10k-database.html",
        "drawn from the seed by reference image (its authors publish none)",
        ASK,
    ),
    "biq2021": PublicDataset(
        "BIQ2021",
        public_readers.read_biq2021,
        "Train (Images and MOS).csv, Test (Images and MOS).csv and Images/",
        "https://github.com/nisarahmedrana/BIQ2021",
        "its authors' train and test",
        "for research, not to be redistributed",
    ),
}
"""Each public dataset that `--data` can name, in the order of `--list-data`."""
