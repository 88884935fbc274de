"""A model's median latency measured without this project's code, to hold musiq-bench against.

python tests/plain_timing.py MODEL.onnx IMAGE [CALLS] [THREADS]; musiq-bench's `p50 ms` of batch 1 should be within 5%.
"""

import sys
import time

import cv2
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[4]) if len(sys.argv) > 4 else 0
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
_, height, width, _ = session.get_inputs()[0].shape
batch = cv2.resize(cv2.imread(sys.argv[2])[:, :, ::-1], (width, height))[None]
times = []
for call in range(10 + int(sys.argv[3] if len(sys.argv) > 3 else 100)):
    start = time.perf_counter()
    session.run(None, {"image": batch})
    if call >= 10:
        times.append(1000 * (time.perf_counter() - start))
print(f"p50 {sorted(times)[len(times) // 2]:.2f} ms of {len(times)} calls")
