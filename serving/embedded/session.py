"""A SavedModel in a TF1 session, as TensorFlow Serving has it: it feeds and fetches by tensor name, and it does not
check shapes against the signature.

A run takes one of two ways. The prepared callable is the quick one, and has no time limit of its own. The other is
TensorFlow's own entry with `RunOptions.timeout_in_ms`, which stops a run between two operations. Calls with a deadline
take the quick way only while the model is known to be far quicker than what is left of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session

from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.model import SignatureDef, timed_out
from serving.embedded.tensors import Array

#: A run may take this many times as long as the slowest of late before its deadline could be missed unnoticed.
_MARGIN = 10
#: What the slowest run counts for after each further one: the first run, which is slow, is forgotten.
_FADING = 0.98
#: Below it a run is quick. The way to a thread and back takes a tenth of it.
_QUICK_SECONDS = 0.001
_LOOPS = frozenset({"While", "StatelessWhile", "Enter", "RefEnter", "For", "Map", "MapDefun"})
_CALLER_THREAD = -1
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Session:
    """Raises ServingError where the folder cannot be loaded."""

    def __init__(self, path: Path, *, tags: Sequence[str], settings: config_pb2.ConfigProto) -> None:
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=settings)
        try:
            with graph.as_default():
                loaded = tf.compat.v1.saved_model.load(self._session, list(tags), str(path))
        except Exception as error:
            self._session.close()
            raise _refused(path, error) from error
        self.signatures: Mapping[str, SignatureDef] = dict(loaded.signature_def)
        self._loops = _has_loops(loaded.graph_def)
        self._prepared: dict[tuple[tuple[str, ...], tuple[str, ...]], _Prepared] = {}
        # A single thread for all operations does one run at a time. The caller's own thread can be that one: the hand
        # over to another costs more than a small model's run.
        self._one_at_a_time = threading.Lock() if settings.inter_op_parallelism_threads == 1 else None

    def run(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], *, deadline: float | None = None
    ) -> list[Array]:
        key = (tuple(feeds), tuple(fetches))
        try:
            prepared = self._prepared.get(key)
            if prepared is None:
                prepared = self._prepared[key] = _Prepared(self._session, *key, self._one_at_a_time)
            return prepared.run(values, deadline)
        except tf.errors.OpError as error:
            raise as_serving_error(error) from error
        except (TypeError, ValueError) as error:
            raise invalid_argument(str(error)) from error

    def quick(self, feeds: Sequence[str], fetches: Sequence[str]) -> bool:
        """As its last runs were. A graph with a loop may take any time, whatever those took."""
        prepared = self._prepared.get((tuple(feeds), tuple(fetches)))
        return prepared is not None and not self._loops and prepared.quick

    def close(self) -> None:
        self._prepared.clear()
        self._session.close()


class _Prepared:
    """One choice of tensors to feed and to fetch."""

    def __init__(
        self, session: Any, feeds: tuple[str, ...], fetches: tuple[str, ...], one_at_a_time: threading.Lock | None
    ) -> None:
        self._session = session
        self._call = _callable(session, feeds, fetches, inline=one_at_a_time is not None)
        self._one_at_a_time = one_at_a_time
        self._feeds = [session.graph.get_tensor_by_name(name)._as_tf_output() for name in feeds]
        self._fetches = [session.graph.get_tensor_by_name(name)._as_tf_output() for name in fetches]
        #: Seconds of late: by the clock, and of this thread's processor, which others do not lengthen.
        self._slowest = self._hardest = float("inf")

    @property
    def quick(self) -> bool:
        lock = self._one_at_a_time
        return lock is not None and self._hardest < _QUICK_SECONDS and not lock.locked()

    def run(self, values: Sequence[Array], deadline: float | None) -> list[Array]:
        begun = time.monotonic()
        left = None if deadline is None else deadline - begun
        if left is not None and (self._one_at_a_time is None or left < _MARGIN * self._slowest):
            results = self._run_within(left, values)
        elif self._one_at_a_time is None:
            results = self._call(*values)
        else:
            if not self._one_at_a_time.acquire(timeout=-1 if left is None else left):
                raise timed_out()
            begun, worked = time.monotonic(), time.thread_time()
            try:
                results = self._call(*values)
            finally:
                self._one_at_a_time.release()
            self._hardest = _of_late(self._hardest, time.thread_time() - worked)
        self._slowest = _of_late(self._slowest, time.monotonic() - begun)
        return [value if isinstance(value, np.ndarray) else _scalar(value) for value in results]

    def _run_within(self, seconds: float, values: Sequence[Array]) -> list[Any]:
        """`Session.run` does this too, after checks of its own that TensorFlow Serving does not have."""
        options = config_pb2.RunOptions(timeout_in_ms=max(int(seconds * 1000), 1))
        buffer = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
        try:
            fed = dict(zip(self._feeds, values, strict=True))
            results: list[Any] = self._session._call_tf_sessionrun(buffer, fed, self._fetches, [], None)
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)
        return results


def _of_late(most: float, seconds: float) -> float:
    """The most, fading. Infinity stands for no run at all."""
    return seconds if most == float("inf") else max(seconds, _FADING * most)


def _callable(
    session: Any, feeds: tuple[str, ...], fetches: tuple[str, ...], *, inline: bool
) -> Callable[..., list[Any]]:
    """A callable costs a tenth of `Session.run`, which checks its arguments anew at each call."""
    options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
    if inline:
        options.run_options.inter_op_thread_pool = _CALLER_THREAD
    private = getattr(session, "_make_callable_from_options", None)
    if private is not None:
        made: Callable[..., list[Any]] = private(options)
        return made
    tensors = [session.graph.get_tensor_by_name(name) for name in feeds]
    return session.make_callable(list(fetches), feed_list=tensors)  # type: ignore[no-any-return]


def _has_loops(graph: Any) -> bool:
    functions = graph.library.function
    return any(node.op in _LOOPS for nodes in (graph.node, *(f.node_def for f in functions)) for node in nodes)


def as_serving_error(error: tf.errors.OpError) -> ServingError:
    return ServingError(_CODES[error.error_code], error.message)


def _refused(path: Path, error: Exception) -> ServingError:
    if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        text = f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}. "
        advice = "Check that the directory exists and that you have the right permissions for accessing it."
        return ServingError(grpc.StatusCode.NOT_FOUND, text + advice)
    if isinstance(error, tf.errors.OpError):
        return as_serving_error(error)
    return ServingError(grpc.StatusCode.UNKNOWN, str(error) or type(error).__name__)


def _scalar(value: Any) -> Array:
    """TensorFlow gives numbers as numpy's scalars, and a string as `bytes`, which numpy would cut at a final zero."""
    return np.array(value, np.object_ if isinstance(value, bytes) else None)
