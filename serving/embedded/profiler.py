"""``tensorflow.ProfilerService``, on the gRPC port unless --enable_profiler=false (xla profiler_service_impl.cc).

TensorFlow's own server of it, which the wheel can start, listens on every address of the machine. So what it does is
done here, on the port that there is anyway: a trace of this process, written to the folder that the request names.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import grpc
from tensorflow.python.profiler.internal import _pywrap_profiler

from serving.embedded import protos
from serving.embedded.receiving import arrived

_STEP_SECONDS = 0.01


class Profiler:
    def __init__(self) -> None:
        self._ended: set[str] = set()
        self._lock = threading.Lock()

    def handler(self) -> grpc.GenericRpcHandler:
        methods = {
            "Profile": _unary(self._profile, "ProfileRequest"),
            "Terminate": _unary(self._terminate, "TerminateRequest"),
            # As in every public build.
            "Monitor": grpc.unary_unary_rpc_method_handler(
                lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, "unimplemented.")
            ),
        }
        return grpc.method_handlers_generic_handler("tensorflow.ProfilerService", methods)

    def _profile(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answered when the trace is written; one at a time, since a process has one profiler."""
        arrived()
        options = request.opts
        session = _pywrap_profiler.ProfilerSession()
        levels = {
            "host_tracer_level": options.host_tracer_level,
            "device_tracer_level": options.device_tracer_level,
            "python_tracer_level": options.python_tracer_level,
        }
        try:
            session.start("", levels)
        except Exception as error:
            context.abort(grpc.StatusCode.INTERNAL, str(error))
        self._wait(request.session_id, options.duration_ms / 1000, context)
        trace = session.stop()
        if request.repository_root:
            try:
                _write(trace, request)
            except OSError as error:
                context.abort(grpc.StatusCode.INTERNAL, f"{error.filename}: {error.strerror}")
        answer: Any = protos.message("ProfileResponse")
        answer.empty_trace = True  # what it was once, a trace in the answer itself, no build gives any more
        return answer

    def _wait(self, session: str, seconds: float, context: grpc.ServicerContext) -> None:
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and context.is_active():
            with self._lock:
                if session in self._ended:
                    self._ended.discard(session)
                    return
            time.sleep(_STEP_SECONDS)

    def _terminate(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self._ended = {request.session_id}  # of one session at a time: names of strangers would fill the memory
        return protos.message("TerminateResponse")


def _write(trace: bytes, request: Any) -> None:
    folder = Path(request.repository_root) / request.session_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{request.host_name}.xplane.pb").write_bytes(trace)


def _unary(behaviour: Any, kind: str) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=type(protos.message(kind)).FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
