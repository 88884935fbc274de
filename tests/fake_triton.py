"""A server of Triton's gRPC protocol that reads a model repository as Triton does and runs its models in ONNX Runtime.

It refuses at load what Triton refuses (a configuration that does not fit the model) and at inference what Triton refuses
(shapes and batches that the configuration does not allow), and reshapes as the configuration says.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32"}
NUMPY = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


def read_config(folder: Path) -> Any:
    """config.pbtxt, parsed by Triton's own schema: an unknown field or value is an error."""
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.name == folder.name
    return config


def check_fits(config: Any, session: onnxruntime.InferenceSession) -> None:
    """What Triton's ONNX Runtime backend demands before it serves a model."""
    for tensors, known in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert {tensor.name for tensor in tensors} == {tensor.name for tensor in known}
        for tensor in tensors:
            (real,) = (other for other in known if other.name == tensor.name)
            assert type_name(tensor) == TYPES[real.type]
            assert len(tensor.dims) > 0, "Triton allows no empty shape"
            shape = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            first, rest = real.shape[0], real.shape[1:]
            if config.max_batch_size:
                assert isinstance(first, str), "a model that Triton batches is dynamic in its first dimension"
                assert shape == sides(rest)
            else:
                assert shape == sides(real.shape)


def sides(shape: list[int | str]) -> list[int]:
    """A shape as a configuration has it: -1 for what is open."""
    return [side if isinstance(side, int) else -1 for side in shape]


def allowed(shape: list[int], dims: list[int]) -> bool:
    return len(shape) == len(dims) and all(dim in (-1, side) for side, dim in zip(shape, dims, strict=True))


def type_name(tensor: Any) -> str:
    return str(model_config_pb2.DataType.Name(tensor.data_type))


class Model:
    def __init__(self, folder: Path) -> None:
        self.config = read_config(folder)
        file = folder / "1" / self.config.default_model_filename
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        check_fits(self.config, self.session)

    def shape(self, tensor: Any) -> list[int]:
        return [*([-1] if self.config.max_batch_size else []), *tensor.dims]

    def metadata(self) -> Any:
        def described(tensor: Any) -> Any:
            kind = type_name(tensor).removeprefix("TYPE_")
            return service_pb2.ModelMetadataResponse.TensorMetadata(
                name=tensor.name, datatype=kind, shape=self.shape(tensor)
            )

        tensors = {"inputs": map(described, self.config.input), "outputs": map(described, self.config.output)}
        return service_pb2.ModelMetadataResponse(name=self.config.name, versions=["1"], **tensors)

    def infer(self, request: Any) -> Any:
        feeds = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            (known,) = (one for one in self.config.input if one.name == tensor.name)
            batch, *rest = tensor.shape
            fits = allowed(rest if self.config.max_batch_size else tensor.shape, known.dims)
            if not fits or (self.config.max_batch_size and not 1 <= batch <= self.config.max_batch_size):
                raise ValueError(f"unexpected shape {list(tensor.shape)} for input '{tensor.name}'")
            feeds[tensor.name] = np.frombuffer(raw, NUMPY[type_name(known)]).reshape(tensor.shape)
        response = service_pb2.ModelInferResponse(model_name=self.config.name, model_version="1")
        for known, value in zip(self.config.output, self.session.run(None, feeds), strict=True):
            shape = [*([len(value)] if self.config.max_batch_size else []), *known.dims]
            response.outputs.add(name=known.name, datatype=type_name(known).removeprefix("TYPE_"), shape=shape)
            response.raw_output_contents.append(value.astype(np.float32).reshape(shape).tobytes())
        return response


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, repository: Path) -> None:
        self.models = {folder.name: Model(folder) for folder in repository.iterdir() if folder.is_dir()}
        self.inside = self.most = self.served = 0
        self._lock = threading.Lock()

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        return self.models[request.name].metadata()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._lock:
            self.inside += 1
            self.served += 1
            self.most = max(self.most, self.inside)
        try:
            return self.models[request.model_name].infer(request)
        except ValueError as problem:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
        finally:
            with self._lock:
                self.inside -= 1


@contextmanager
def serving(repository: Path) -> Iterator[tuple[Service, str]]:
    """The service and its address, while it serves the repository."""
    service = Service(repository)
    server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
