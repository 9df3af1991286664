"""From a version's folder to what serves it: a session or TF Lite, batching around it, its warm-up requests played."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tensorflow.core.protobuf import config_pb2

from serving.embedded import config, duet
from serving.embedded.batching import Batcher, Parameters
from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.flags import Flags
from serving.embedded.metrics import Metrics
from serving.embedded.model import Model, Run
from serving.embedded.servable import Servable
from serving.embedded.session import Session
from serving.embedded.warmup import warm_up

#: With --enable_per_model_batching_parameters, of a version's own folder.
BATCHING_FILE = "batching_params.pbtxt"
LITE_FILE = "model.tflite"


class Loader:
    """Raises ConfigError where the flags contradict each other."""

    def __init__(self, flags: Flags, metrics: Metrics) -> None:
        self._flags = flags
        self._metrics = metrics
        self._batching = config.batching(flags)
        self._settings = session_settings(flags)

    def __call__(self, name: str, number: int, path: Path) -> Servable:
        """Raises ServingError: the version then does not serve."""
        begun = time.monotonic()
        try:
            known = duet.read(path)
            servable = Servable(self._model(path), batched=self._batched(path, known), duet=known)
        except ServingError:
            self._metrics.loaded(str(path), "fail", _microseconds(begun))
            raise
        self._metrics.loaded(str(path), "success", _microseconds(begun))
        if self._flags.enable_model_warmup:
            self._warm_up(servable, path)
        return servable

    def _model(self, path: Path) -> Model:
        flags = self._flags
        if flags.prefer_tflite_model and (path / LITE_FILE).is_file():
            # Here, since what it imports is large, and few servers have such models.
            from serving.embedded.tflite import LiteModel

            return LiteModel(
                path / LITE_FILE,
                pool=max(flags.num_tflite_pools or os.cpu_count() or 1, 1),
                threads=self._settings.intra_op_parallelism_threads,
            )
        return Session(path, tags=flags.saved_model_tags.split(","), settings=self._settings)

    def _batched(self, path: Path, known: bytes) -> Callable[[Run], Run] | None:
        """Where nothing is known of its rows the operator's flags decide, as in the real server."""
        if duet.rows(known) == "dependent":
            return None
        parameters = self._batching
        if parameters and self._flags.enable_per_model_batching_parameters:
            parameters = _own_parameters(path / BATCHING_FILE, parameters)
        if parameters is None:
            return None
        return lambda run: Batcher(run, parameters, report=self._metrics.batched).run

    def _warm_up(self, servable: Servable, path: Path) -> None:
        begun = time.monotonic()
        try:
            played = warm_up(servable, path, iterations=max(self._flags.num_request_iterations_for_warmup, 1))
        except ServingError:
            servable.retire()
            raise
        if played:
            self._metrics.warmed_up(str(path), _microseconds(begun))


def session_settings(flags: Flags) -> config_pb2.ConfigProto:
    """Raises ConfigError. Given flags come before the file's settings."""
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    both = flags.tensorflow_session_parallelism
    if intra > 0 and inter > 0 and both > 0:
        raise config.ConfigError(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    # A pool of threads for each model: runs of one that never end would take all threads of a common pool, and starve
    # the others' calls.
    settings = config_pb2.ConfigProto(allow_soft_placement=True, use_per_session_threads=True)
    settings.gpu_options.allow_growth = True
    if flags.tensorflow_session_config_file:
        config.read_message(flags.tensorflow_session_config_file, settings)
    if flags.per_process_gpu_memory_fraction:
        settings.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    if intra > 0 or inter > 0 or both > 0:
        separately = intra > 0 or inter > 0
        settings.intra_op_parallelism_threads = intra if separately else both
        settings.inter_op_parallelism_threads = inter if separately else both
    return settings


def _own_parameters(path: Path, shared: Parameters) -> Parameters | None:
    """Of the threads, only the shared parameters tell; a version without a file of its own is not batched."""
    if not path.is_file():
        return None
    try:
        own = config.batching_parameters(str(path))
    except config.ConfigError as error:
        raise invalid_argument(str(error)) from error
    return replace(own, num_batch_threads=shared.num_batch_threads, thread_pool_name=shared.thread_pool_name)


def _microseconds(since: float) -> float:
    return (time.monotonic() - since) * 1e6
