"""Score images with a Triton Inference Server that serves what `musiq-export --format triton` wrote.

    pip install '.[triton]'    # neither torch nor a runtime
    python examples/triton_client.py NAME photos/ [localhost:8001]

Many requests are under way at once, so that the server can make batches of them. Tested with a server of the same gRPC
protocol that obeys config.pbtxt and runs the model in ONNX Runtime; with Triton itself it has not been tested yet.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import tritonclient.grpc.aio as triton

import musiq
from musiq.images import find_images, prepare

AT_ONCE = 16
MAX_PIXELS = 50_000_000


async def main(model: str, folder: str, server: str = "localhost:8001") -> None:
    paths, slots = find_images([folder]), asyncio.Semaphore(AT_ONCE)
    async with triton.InferenceServerClient(server) as client:
        batch, *sides, _ = (await client.get_model_metadata(model)).inputs[0].shape
        if batch != -1:
            sys.exit(f"{model} takes {batch} images a request; export it without a fixed --batch.")
        size = [None if side == -1 else side for side in sides]  # of any size, each image goes as it is

        async def score(path: Path) -> str:
            async with slots:
                try:
                    image, _ = await asyncio.to_thread(prepare, path, *size, max_pixels=MAX_PIXELS)
                    tensor = triton.InferInput("image", [1, *image.shape], "UINT8")
                    tensor.set_data_from_numpy(image[None])
                    return str((await client.infer(model, [tensor])).as_numpy("score")[0, 0])
                except (musiq.ImageError, triton.InferenceServerException) as problem:
                    return f"error: {problem}"

        tasks = [asyncio.create_task(score(path)) for path in paths]
        for path, task in zip(paths, tasks, strict=True):
            print(path, await task, sep="\t")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except (musiq.MusiqError, triton.InferenceServerException) as problem:
        sys.exit(f"Error: {problem}")
