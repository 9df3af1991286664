"""``tensorflow.ProfilerService``, on the gRPC port unless --enable_profiler=false (xla profiler_service_impl.cc).

TensorFlow's own server of it, which the wheel can start, listens on every address of the machine. So what it does is
done here, on the port that there is anyway: a trace of this process, written to the folder that the request names.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tensorflow.python.profiler.internal import _pywrap_profiler

from serving.embedded import protos

Context = grpc.aio.ServicerContext[Any, Any]


class Profiler:
    """On the server's loop, all of it but `handler`."""

    def __init__(self) -> None:
        self._ended: dict[str, asyncio.Event] = {}

    def handler(self) -> grpc.GenericRpcHandler:
        methods = {
            "Profile": _unary(self._profile, "ProfileRequest"),
            "Terminate": _unary(self._terminate, "TerminateRequest"),
            "Monitor": grpc.unary_unary_rpc_method_handler(_monitor),
        }
        return grpc.method_handlers_generic_handler("tensorflow.ProfilerService", methods)

    async def _profile(self, request: Any, context: Context) -> Any:
        """Answered when the trace is written; one at a time, since a process has one profiler."""
        options = request.opts
        session = _pywrap_profiler.ProfilerSession()
        levels = {
            "host_tracer_level": options.host_tracer_level,
            "device_tracer_level": options.device_tracer_level,
            "python_tracer_level": options.python_tracer_level,
        }
        with tempfile.TemporaryDirectory() as folder:
            try:
                session.start(folder, levels)
            except Exception as error:
                await context.abort(grpc.StatusCode.INTERNAL, str(error))
            try:
                await self._wait(request.session_id, options.duration_ms / 1000)
            finally:
                # Not `stop`, which gives a message of another kind than clients and TensorBoard read.
                await asyncio.to_thread(session.export_to_tb)
            try:
                is_empty = await asyncio.to_thread(_handed_over, Path(folder), request)
            except OSError as error:
                await context.abort(grpc.StatusCode.INTERNAL, f"{error.filename}: {error.strerror}")
        answer: Any = protos.message("ProfileResponse")
        answer.empty_trace = is_empty
        return answer

    async def _wait(self, session: str, seconds: float) -> None:
        """Until it is over, or ended, or nobody waits for it any more."""
        ended = self._ended.setdefault(session, asyncio.Event())
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), seconds)
        finally:
            self._ended.pop(session, None)

    async def _terminate(self, request: Any, context: Context) -> Any:
        if request.session_id in self._ended:
            self._ended[request.session_id].set()
        return protos.message("TerminateResponse")


async def _monitor(request: bytes, context: Context) -> bytes:
    """As in every public build."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unimplemented.")
    raise AssertionError("abort raises")


def _handed_over(folder: Path, request: Any) -> bool:
    """Moves the trace to where the request says, if it does, and tells whether it is empty."""
    (written,) = folder.rglob("*.xplane.pb")
    is_empty = _is_empty(written.read_bytes())
    if request.repository_root:
        target = Path(request.repository_root) / request.session_id
        target.mkdir(parents=True, exist_ok=True)
        # The host is the address that the client called; a colon is no part of a file's name (SaveXSpace).
        shutil.move(written, target / f"{request.host_name.replace(':', '_')}.xplane.pb")
    return is_empty


def _is_empty(trace: bytes) -> bool:
    """Whether nothing ran during the trace (xplane_utils.cc § IsEmpty). Clients ask again then, and give up at last."""
    space: Any = protos.message("XSpace")
    space.ParseFromString(trace)
    return not any(line.events for plane in space.planes for line in plane.lines)


def _unary(behaviour: Any, kind: str) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=type(protos.message(kind)).FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
