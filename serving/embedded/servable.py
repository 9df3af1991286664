"""One loaded version of a model: a session, its signatures, and a prepared callable for each way to call them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.tensors import Array

SignatureDef = meta_graph_pb2.SignatureDef
Run = Callable[..., list[Array]]
#: Tensor names to feed, their values, tensor names to fetch.
NamedRun = Callable[[Sequence[str], Sequence[Array], Sequence[str]], list[Array]]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Servable:
    """A SavedModel in a TF1 session, as TensorFlow Serving has it: it feeds and fetches by tensor name, and it does not
    check shapes against the signature.

    Calls hold the servable; `retire` waits for them, then closes the session. Raises ServingError where the folder
    cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        tags: Sequence[str],
        intra_op_threads: int,
        inter_op_threads: int,
        batched: Callable[[NamedRun], NamedRun] | None = None,
    ) -> None:
        graph = tf.Graph()
        settings = config_pb2.ConfigProto(
            intra_op_parallelism_threads=intra_op_threads,
            inter_op_parallelism_threads=inter_op_threads,
            allow_soft_placement=True,
        )
        settings.gpu_options.allow_growth = True
        self._session = tf.compat.v1.Session(graph=graph, config=settings)
        try:
            with graph.as_default():
                loaded = tf.compat.v1.saved_model.load(self._session, list(tags), str(path))
        except Exception as error:
            self._session.close()
            raise _refused(path, error) from error
        self.signatures: Mapping[str, SignatureDef] = dict(loaded.signature_def)
        #: Values of tensors by name. Raises ServingError with TensorFlow's own code and text.
        self.run: NamedRun = batched(self._call) if batched else self._call
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], Run] = {}
        self._idle = threading.Condition()
        self._calls = 0
        self._retired = False

    def hold(self) -> bool:
        """Take part; False once it is retired."""
        with self._idle:
            if self._retired:
                return False
            self._calls += 1
            return True

    def release(self) -> None:
        with self._idle:
            self._calls -= 1
            if not self._calls:
                self._idle.notify_all()

    def retire(self) -> None:
        """Take no more calls, wait for those in flight, close."""
        with self._idle:
            self._retired = True
            self._idle.wait_for(lambda: not self._calls)
        self._callables.clear()
        self._session.close()

    def _call(self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str]) -> list[Array]:
        key = (tuple(feeds), tuple(fetches))
        try:
            run = self._callables.get(key)
            if run is None:
                run = self._callables[key] = self._prepare(*key)
            return run(*values)
        except tf.errors.OpError as error:
            raise ServingError(_CODES[error.error_code], error.message) from error
        except (TypeError, ValueError) as error:
            raise invalid_argument(str(error)) from error

    def _prepare(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Run:
        """A callable costs a tenth of `Session.run`, which checks its arguments anew at each call."""
        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        private = getattr(self._session, "_make_callable_from_options", None)
        if private is not None:
            return _as_list(private(options))
        return _as_list(self._session.make_callable(list(fetches), feed_list=self._tensors(feeds)))

    def _tensors(self, names: Sequence[str]) -> list[Any]:
        return [self._session.graph.get_tensor_by_name(name) for name in names]


def _refused(path: Path, error: Exception) -> ServingError:
    if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        text = f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
        return ServingError(grpc.StatusCode.NOT_FOUND, text)
    if isinstance(error, tf.errors.OpError):
        return ServingError(_CODES[error.error_code], error.message)
    return ServingError(grpc.StatusCode.UNKNOWN, str(error) or type(error).__name__)


def _as_list(run: Callable[..., Any]) -> Run:
    return lambda *values: [value if isinstance(value, np.ndarray) else _scalar(value) for value in run(*values)]


def _scalar(value: Any) -> Array:
    """TensorFlow gives numbers as numpy's scalars, and a string as `bytes`, which numpy would cut at a final zero."""
    return np.array(value, np.object_ if isinstance(value, bytes) else None)
