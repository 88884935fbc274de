"""One measurement in a process of its own: start it, feed it, read it, and turn its death into a status.

The child (`musiq_bench.measure.worker`) writes `opened` with the image size of its model, gets the images of that
size, and writes `finished` with its figures, or `failed` with a status and a reason. Each message is one line of JSON;
`musiq_bench.plan.job` has what they hold.
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
from dataclasses import asdict, dataclass
from typing import IO

from ..plan.job import DecodedFiles, Figures, Job, Opened, Outcome

Decode = Callable[[Opened], DecodedFiles]
"""Gives the images that a model of that size shall use."""

Tell = Callable[[str], None]
"""Is given what is being done, in words."""


@dataclass
class _Messages:
    """What the child has written: `failure` is (status, reason) of what it failed with."""

    opened: Opened | None = None
    figures: Figures | None = None
    failure: tuple[str, str] | None = None


def measure(job: Job, decode: Decode, tell: Tell, timeout_s: float) -> Outcome:
    """Run `job` in a fresh process.

    Args:
        job: What to measure.
        decode: Turns what the opened model says of itself into the images that it shall use.
        tell: Is told how far the child is.
        timeout_s: Seconds after which the child is stopped.

    Returns:
        What came of it, whatever happens to the child. What `decode` raises and KeyboardInterrupt go through, the child
        stopped first.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        process = _start(job, stderr)
        timer = threading.Timer(timeout_s, process.kill)
        timer.daemon = True  # Ctrl-C between these lines must not leave a thread that Python waits for at its end
        try:
            timer.start()
            messages = _talk(process, decode, tell)
            process.wait()
        finally:
            late = not timer.is_alive()
            timer.cancel()
            process.kill()
            process.wait()
        return _outcome(process.returncode, messages, stderr, f"{timeout_s:g} s" if late else "")


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


def _talk(process: subprocess.Popen[str], decode: Decode, tell: Tell) -> _Messages:
    """Follow the child to its end."""
    assert process.stdin is not None
    assert process.stdout is not None
    messages = _Messages()
    for line in process.stdout:
        message = json.loads(line)
        match message.pop("event"):
            case "opened":
                messages.opened = Opened(**message)
                images = json.dumps(asdict(decode(messages.opened)))
                try:
                    process.stdin.write(images + "\n")
                    process.stdin.flush()
                except BrokenPipeError:
                    break
            case "progress":
                tell(f"{message['doing']} {message['done']}/{message['of']}")
            case "finished":
                messages.figures = Figures(**message)
            case "failed":
                messages.failure = message["status"], message["reason"]
    return messages


def _outcome(code: int, messages: _Messages, stderr: IO[str], late: str) -> Outcome:
    """What an ended child amounts to; `late` is the time that it had, if it took longer."""
    opened = messages.opened
    if messages.figures is not None:
        return Outcome("ok", opened=opened, figures=messages.figures)
    if messages.failure is not None:
        return Outcome(*messages.failure, opened)
    if late:
        return Outcome("timed out", f"not finished after {late}; give a longer --timeout or fewer --calls", opened)
    stderr.seek(0)
    lines = [line.strip() for line in stderr.read().splitlines() if line.strip()]
    tail = f"; it last said: {lines[-1][:300]}" if lines else ""
    if code == -signal.SIGKILL:
        return Outcome("out of memory", f"stopped by the system (SIGKILL), most often for lack of memory{tail}", opened)
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Outcome("crashed", f"the process died with {name}{tail}", opened)
