"""A scoring service: POST an image to /score, get {"score": 3.21, "size": "512x384", "fitted": ""}; 422 says why not.

    pip install '.[cpu,http]'
    MUSIQ_MODEL=model.onnx uvicorn --app-dir examples http_service:app --limit-concurrency 64
    curl -F image=@photo.jpg http://127.0.0.1:8000/score

AT_ONCE images are decoded and scored at a time; those that wait lie on disk, but for small ones, so that many requests
cost little more memory than a few. How large an upload may be is for the proxy in front to say.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, UploadFile

import musiq

AT_ONCE = CapacityLimiter(2)  # one is decoded while another is in the model
MAX_PIXELS = 50_000_000


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with musiq.load(os.environ.get("MUSIQ_MODEL", "model.onnx"), max_pixels=MAX_PIXELS) as app.state.scorer:
        yield


app = FastAPI(title="musiq", lifespan=lifespan)


@app.post("/score")
async def score(image: UploadFile) -> dict[str, float | str]:
    return await to_thread.run_sync(rate, image.file, limiter=AT_ONCE)


def rate(file: BinaryIO) -> dict[str, float | str]:
    scorer: musiq.Scorer = app.state.scorer
    (row,) = scorer.score_many(file)
    if row.score is None:
        raise HTTPException(
            500 if row.size else 422, row.error
        )  # what the model saw and failed on is no fault of the image
    return {"score": row.score, "size": row.size, "fitted": row.fitted}
