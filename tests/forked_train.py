"""Runs of train.py, each in a child of one process that imported everything: python -m tests.forked_train

Importing torch takes far longer than a small run. For each line of JSON, {"options": [...], "signal": null or [number,
epoch], "output": FILE}, it runs train.py with its output in FILE, and prints how that ended: the exit code, or minus the
signal.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, or minus the signal; and all that it printed."""

    code: int
    output: str


class ForkedTrain:
    """The side of the tests."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process, self._output = process, output

    def run(self, *options: object, signalled: tuple[int, int] | None = None) -> Ended:
        """Run train.py to its end; a signal comes in the third step of an epoch where `signalled` says which and when, a
        negative one to all of its processes."""
        asked = {"options": list(map(str, options)), "signal": signalled, "output": str(self._output)}
        print(json.dumps(asked), file=_open(self._process.stdin), flush=True)
        code = int(_open(self._process.stdout).readline())
        return Ended(code, self._output.read_text())


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@contextmanager
def forked_train(folder: Path) -> Iterator[ForkedTrain]:
    """The process for as long as the block runs, computing in one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.forked_train"]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield ForkedTrain(process, folder / "output.txt")
        finally:
            _open(process.stdin).close()


def main() -> None:
    # What a run imports, so that no child has to.
    for name in ("accelerate", "matplotlib.figure", "musiq.training.report", "scipy.stats", "torch.utils.tensorboard"):
        importlib.import_module(name)
    import train
    from tests.signalled import send_in

    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()  # a signal to the whole group does not reach this one
            file = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            if asked["signal"]:
                send_in(*asked["signal"])
            train.main(asked["options"])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
