"""train.py to which a signal comes in the third step of an epoch: python -m tests.signalled NUMBER EPOCH OPTIONS...

A negative number goes to every process of the group. Sent from within, as nobody outside can tell when a run is where
the signal shall meet it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import train
from musiq.training import run


def send_in(number: int, epoch: int) -> None:
    """From now on the last process of a run gets this signal once the second step of the epoch is done and saved."""
    save_if_due = run.save_if_due

    def save_and_send(run: run.Run, learner: run.Learner) -> None:
        save_if_due(run, learner)
        last = run.accelerator.process_index == run.accelerator.num_processes - 1
        if last and (run.state.epoch, run.state.step) == (epoch, 2):
            if number < 0:
                # From another process: PyTorch's workers take it for the end where it comes from their parent.
                kill = ["kill", "-s", str(-number), "--", str(-os.getpgid(0))]
                subprocess.run(kill, check=True, start_new_session=True)
            else:
                os.kill(os.getpid(), number)

    run.save_if_due = save_and_send


if __name__ == "__main__":
    send_in(int(sys.argv[1]), int(sys.argv[2]))
    train.main(sys.argv[3:])
