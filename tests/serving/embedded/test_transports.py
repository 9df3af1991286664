"""Batching, the unix socket, TLS and channel arguments, all on one server."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server

NAMED = [("grpc.ssl_target_name_override", "localhost")]


def request(number: float) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(np.float32([[number]]))})
    made.model_spec.name = "m"
    return made


def test_one_server_with_all_of_them(tmp_path: Path, command: str) -> None:
    """Each caller gets its own rows, over TLS, on the socket too (server.cc § BuildAndStart)."""
    model = savedmodels.save(tmp_path / "m" / "1", savedmodels.half_plus(2)).parent
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command_line = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    made = subprocess.run([*command_line.split(), *names], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    ssl, batching, socket = tmp_path / "ssl", tmp_path / "batching", tmp_path / "s"
    pem = {"server_key": key.read_text(), "server_cert": certificate.read_text()}
    ssl.write_text("\n".join(f'{name}: "{text}"'.replace("\n", "\\n") for name, text in pem.items()))
    batching.write_text("max_batch_size { value: 8 } batch_timeout_micros { value: 20000 }")
    flags = ["--model_name=m", f"--model_base_path={model}", f"--ssl_config_file={ssl}", "--enable_batching=true"]
    flags += [f"--batching_parameters_file={batching}", f"--grpc_socket_path={socket}"]
    flags += ["--grpc_channel_arguments=grpc.max_connection_age_ms=60000"]
    server = Server(tmp_path, flags, command=command)
    try:
        server.ready()
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with (
            grpc.secure_channel(f"localhost:{server.port}", credentials) as secure,
            grpc.secure_channel(f"unix:{socket}", credentials, NAMED) as local,
            ThreadPoolExecutor(8) as pool,
        ):
            for channel in (secure, local):
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                answers = pool.map(lambda number, stub=stub: stub.Predict(request(number), 20), range(8))
                assert [answer.outputs["y"].float_val[0] for answer in answers] == [n / 2 + 2 for n in range(8)]
        with pytest.raises(grpc.RpcError):
            server.prediction.Predict(request(1), 2)
    finally:
        server.close()
