"""A publisher on this machine: weights of the published layouts over HTTP, whole or in all the ways that go wrong."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from musiq.presets import PRESETS
from musiq.published import checkpoint_path

SMALL: dict[str, Any] = {
    **{"dim": 48, "layers": 1, "heads": 2, "head_dim": 24, "mlp_dim": 48},
    **{"trunk_channels": 8, "trunk_groups": 4},
}
"""Fields that make the published models small enough for tests: files of 300 kB instead of 109 MB."""


class Publisher(ThreadingHTTPServer):
    """Serves `files` by their names, whatever folder is asked for, in the `way` that it is told.

    Attributes:
        asked: The paths that were asked for; of a proxy, whole addresses.
        halfway: Set once half of a file is on its way, in the way "hang", which waits for `go_on` there.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.way = "whole"
        self.asked: list[str] = []
        self.halfway, self.go_on = threading.Event(), threading.Event()

    def handle_error(self, *_: object) -> None:
        pass  # who asked has gone

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        publisher, name = self.server, self.path.rsplit("/", 1)[-1]
        publisher.asked.append(self.path)
        body = publisher.files.get(name)
        if body is None:
            self.send_error(404)
        elif publisher.way == "redirect" and "/elsewhere/" not in self.path:
            self.send_response(302)
            self.send_header("Location", f"{publisher.address}/elsewhere/{name}")
            self.end_headers()
        else:
            self._send(body)

    def _send(self, body: bytes) -> None:
        way, half = self.server.way, len(body) // 2
        if way == "a page":
            body = b"<html>Please log in to this network.</html>"
        self.send_response(200)
        if way != "half, of no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if way == "hang":
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.server.halfway.set()
            self.server.go_on.wait(300)
            self.wfile.write(body[half:])
        else:
            self.wfile.write(body[:half] if way.startswith("half") else body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def publisher() -> Iterator[Publisher]:
    """One that listens on a port of its own."""
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()


@contextmanager
def small_layouts() -> Iterator[None]:
    """Within it, published files are of small models."""
    with pytest.MonkeyPatch.context() as patch:
        for preset in ("musiq", "musiq-pyiqa"):
            patch.setitem(PRESETS, preset, dataclasses.replace(PRESETS[preset], **SMALL))
        yield


if __name__ == "__main__":  # a process of its own that asks for a checkpoint
    with small_layouts():
        print(checkpoint_path(sys.argv[1]))
