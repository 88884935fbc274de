"""One measurement in a process of its own: start it, feed it, read it, and turn its death into a status.

The child (`musiq_bench.measure.worker`) says `opened` with the image size of its model, gets the images of that
size, and says `finished` with its figures, or `failed` with a status and a reason. Each message is one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import IO

from ..plan.cases import Job, Message, Outcome


def measure(
    job: Job, feed: Callable[[Message], Message], progress: Callable[[Message], None], timeout_s: float
) -> Outcome:
    """Run `job` in a fresh process. `feed` turns the child's `opened` message into the images it shall use.

    Whatever happens to the child, an Outcome comes back; what `feed` raises and KeyboardInterrupt go through, the child
    stopped first.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        process = _start(job, stderr)
        timer = threading.Timer(timeout_s, process.kill)
        timer.daemon = True  # Ctrl-C between these lines must not leave a thread that Python waits for at its end
        try:
            timer.start()
            opened, last = _talk(process, feed, progress)
            process.wait()
        finally:
            late = not timer.is_alive()
            timer.cancel()
            process.kill()
            process.wait()
        return _outcome(process.returncode, opened, last, stderr, f"{timeout_s:g} s" if late else "")


def _start(job: Job, stderr: IO[str]) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if job.threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(job.threads)
    # -P: a file of the working directory must not shadow a package. An own session: Ctrl-C reaches the parent alone,
    # which stops the child and keeps what is finished.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "musiq_bench.measure.worker", json.dumps(asdict(job))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _talk(
    process: subprocess.Popen[str], feed: Callable[[Message], Message], progress: Callable[[Message], None]
) -> tuple[Message, Message]:
    """Follow the child to its end: its `opened` and its last message, each empty if it never came."""
    assert process.stdin is not None
    assert process.stdout is not None
    opened: Message = {}
    last: Message = {}
    for line in process.stdout:
        last = json.loads(line)
        if last["event"] == "opened":
            opened = last
            images = json.dumps(feed(opened))
            try:
                process.stdin.write(images + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                break
        elif last["event"] == "progress":
            progress(last)
    return opened, last


def _outcome(code: int, opened: Message, last: Message, stderr: IO[str], late: str) -> Outcome:
    """What an ended child amounts to; `late` is the time that it had, if it took longer."""
    if last.get("event") == "finished":
        return Outcome("ok", figures={**opened, **last})
    if last.get("event") == "failed":
        return Outcome(last["status"], last["reason"], opened)
    if late:
        return Outcome("timed out", f"not finished after {late}; give a longer --timeout or fewer --calls", opened)
    stderr.seek(0)
    said = [line.strip() for line in stderr.read().splitlines() if line.strip()]
    tail = f"; it last said: {said[-1][:300]}" if said else ""
    if code == -signal.SIGKILL:
        return Outcome("out of memory", f"stopped by the system (SIGKILL), most often for lack of memory{tail}", opened)
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Outcome("crashed", f"the process died with {name}{tail}", opened)
