"""What every gRPC call of every front does around its own decoding and encoding."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, cast

import grpc
import grpc.aio

from gateway import pins
from gateway.backends.base import Entry
from gateway.errors import Code, DuetError, Internal, InvalidArgument, ResourceExhausted, Unavailable
from gateway.grpc import errors
from gateway.grpc.admission import Admission, Shown
from gateway.grpc.arriving import Arriving, Bounds, Line, Stream, Withheld
from gateway.grpc.receiving import Receiving
from gateway.grpc.unread import Unread
from gateway.observation import Observation, Observer
from gateway.security.access import Access
from gateway.security.shares import Shares
from gateway.types import InferRequest, InferResponse

log = logging.getLogger("duet.grpc")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_FOR_EVER = 10 * 365 * 86_400.0
#: Requests of one stream that are answered at a time; the client's next ones wait in gRPC's flow control.
_STREAM_WINDOW = 16
_LARGE_BYTES = 256 << 10

#: Of messages that everybody may send: how long one may be, how many are read at a time, half of them from one address;
#: how long one may take, and how many may wait for that.
_OPEN_MAX_BYTES = 4 << 10
_OPEN_AT_ONCE = 4
_OPEN_SECONDS = 1.0
_OPEN_WAITING = 64

_IDLE = "the stream was idle for {:g} s (grpc.stream_idle_seconds); open it again"
STOPPING = "the gateway is about to stop; open the stream again"


class Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


@dataclass(slots=True)
class Call:
    """One call as its behaviour sees it. ``deadline`` is of the event loop's clock, ``variant`` the metadata's pin.

    ``criticality`` is as the client wrote it, ``signature`` the one that the metadata names. ``message`` is the
    request's, None where it is none; ``is_read`` tells whether that is known.
    """

    seen: Observation
    variant: str | None
    deadline: float | None
    criticality: str | None = None
    signature: str | None = None
    message: Any = None
    is_read: bool = False

    def read(self, data: bytes, request: Any) -> Any:
        """The message. Raises DuetError, and then not again: large ones take milliseconds to look at."""
        if not self.is_read:
            self.is_read = True
            self.message = _parsed(data, request)
        return self.message

    async def infer(self, entry: Entry, request: InferRequest) -> InferResponse:
        """Sends the request to its target, with what the metadata says of it."""
        if self.criticality is not None:
            request = replace(request, criticality=pins.criticality(self.criticality))
        return await entry.infer(request)

    def answered(self, request: InferRequest, response: InferResponse) -> None:
        self.seen.answered(request, response)


Behaviour = Callable[[Any, Call], Awaitable[Message]]
#: Takes the request message and a function that sends an answer; returns when the server is about to stop.
Watch = Callable[[Any, Callable[[Message], Awaitable[None]]], Awaitable[None]]
#: The code and text of an error in a dialect's own words; None keeps the error's own.
Render = Callable[[DuetError], tuple[grpc.StatusCode, str]]
#: The message that tells of an error inside a stream. The request is None where its bytes were no message.
InBand = Callable[[DuetError, Any], Message]


def plain(error: DuetError) -> tuple[grpc.StatusCode, str]:
    return errors.STATUS[error.code], error.message


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may hold at a time. ``caller_share`` is the part of it that one of them may.

    ``receive_seconds`` is for a call's message to come, ``stream_idle_seconds`` for the next one of a stream with
    nothing in flight. Messages on their way in may have half of ``max_bytes`` together: while they are being decoded
    and answered, they are counted elsewhere. Each is taken for one of ``max_message_bytes``.
    """

    max_calls: int = 4096
    max_watches: int = 512
    caller_share: float = 0.25
    receive_seconds: float = 30.0
    stream_idle_seconds: float = 300.0
    max_bytes: int = 256 << 20
    max_message_bytes: int = 16 << 20

    def arriving(self) -> Bounds:
        """Streams may hold as much of messages on their way as unary calls: half of the bytes, and a caller its share.

        The longest message always fits, with the frames around it.
        """
        total, one = self.max_bytes // 2, self.max_message_bytes + (1 << 20)
        each = max(one, int(total * self.caller_share))
        return Bounds(each, max(each, total), self.receive_seconds, self.max_message_bytes)


class _Place:
    """A call's place among `Shares`, until the call's own task ends, which is the one that runs now."""

    def __init__(self, shares: Shares, caller: str) -> None:
        self.caller = caller
        self._shares = shares
        shares.enter(caller)
        cast("asyncio.Task[Any]", asyncio.current_task()).add_done_callback(self._leave)

    def move(self, caller: str) -> None:
        """To another caller. Raises ResourceExhausted."""
        self._shares.move(self.caller, caller)
        self.caller = caller

    def _leave(self, _: object) -> None:
        self._shares.leave(self.caller)


class Calls:
    """Makes handlers of behaviours. A behaviour takes a request message and its `Call`; it raises DuetError.

    A call is let in before its message is read. It takes a place (its address's, then its caller's), shows who calls,
    enters the caller's quota, and only then is the message taken in, within its time (`Receiving`). Calls that
    everybody may make take none of these places, so that a probe is answered whatever else is going on.

    The transport ``native`` gives whole messages alone: there all of this comes after the message.
    """

    def __init__(
        self,
        observer: Observer,
        *,
        unread: Unread,
        admission: Admission | None = None,
        limits: Limits = Limits(),
        arriving: Arriving | None = None,
    ) -> None:
        self._observer = observer
        self._arriving = arriving or Arriving()
        self._unread = unread
        self._admission = admission
        self._max_message_bytes = limits.max_message_bytes
        self._idle_seconds = limits.stream_idle_seconds
        share, at_once = limits.caller_share, max(1, limits.max_bytes // 2 // limits.max_message_bytes)
        self._places = Shares(places=limits.max_calls, share=share, what="calls", setting="grpc.max_calls")
        self._watches = Shares(places=limits.max_watches, share=share, what="watches", setting="grpc.max_watches")
        self._receiving = Receiving(at_once=at_once, each=max(1, int(at_once * share)), seconds=limits.receive_seconds)
        self._open_receiving = Receiving(
            at_once=_OPEN_AT_ONCE,
            each=_OPEN_AT_ONCE // 2,
            seconds=min(_OPEN_SECONDS, limits.receive_seconds),
            newest_first=True,
            max_waiting=_OPEN_WAITING,
        )
        self.statistics = observer.statistics
        #: Set when the server is about to stop: streams take no further request and end.
        self.ending = asyncio.Event()

    def unary(
        self,
        behaviour: Behaviour,
        request: Any,
        *,
        path: str,
        front: str = "",
        render: Render = plain,
        as_stream: bool = False,
        everybody: bool = False,
        empty: bool = False,
    ) -> grpc.RpcMethodHandler:
        """A unary call's handler. ``request`` is its message class; ``front`` is empty for what is no inference.

        ``as_stream`` sends the one answer as a stream of one, for a call that the protocol declares so.
        ``everybody`` may make a call that tells of no model. A message that is always ``empty`` is not read at all.
        """

        async def serve(given: object, call: Call, context: Context, line: Line) -> bytes:
            if everybody:
                data = b"" if empty else await self._open_message(given, context, line)
                return await self._answer(data, call, behaviour, request)
            place = _Place(self._places, self._arriving.caller(line, context))
            access = None
            if self._admission is not None:
                access = await self._identified(call, self._shown(context), place)

            async def read() -> bytes:
                return await self._message(given, context, line, self._receiving, place.caller)

            return await self._entered(read, call, behaviour, request, access)

        async def handle(given: object, context: Context) -> bytes:
            line, call = self._arriving.call(context), self._begin(context, front)
            try:
                answer = await serve(given, call, context, line)
                context.set_trailing_metadata(self._trailing(call))
                self._unread.hold_for_task(context, len(answer))
                return answer
            except DuetError as error:
                call.seen.failed(error)
                code, text = render(error)
                await context.abort(code, text, (*errors.metadata(error), *errors.observed(call.seen)))
                raise  # abort raises; this line tells the type checker
            except asyncio.CancelledError:
                call.seen.code = Code.CANCELLED.name
                raise
            finally:
                self._observer.finish(call.seen, method="GRPC", path=path, status=_number(call.seen))

        async def handle_as_stream(given: object, context: Context) -> None:
            await context.write(await handle(given, context))

        if as_stream:
            return grpc.unary_stream_rpc_method_handler(handle_as_stream)
        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(
        self, behaviour: Behaviour, request: Any, *, path: str, front: str, in_band: InBand
    ) -> grpc.RpcMethodHandler:
        """The handler of a stream in which each request has one answer, in the order of the requests.

        Requests are worked on `_STREAM_WINDOW` at a time. An error is an answer too (``in_band``): the stream goes on.
        It ends where nothing came for long and nothing is in flight, and at a request whose caller is not known any
        more; what was asked before is still answered.
        """

        async def one(data: bytes, call: Call, access: Access | None) -> bytes:
            async def read() -> bytes:
                return data

            try:
                return await self._entered(read, call, behaviour, request, access)
            except DuetError as error:
                call.seen.failed(error)
                with contextlib.suppress(DuetError):
                    call.read(data, request)
                return in_band(error, call.message).SerializeToString()
            finally:
                self._finish(call, path)

        async def asked(shown: Shown | None, context: Context) -> tuple[Call, Access | None]:
            call = self._begin(context, front)
            try:
                return call, await self._identified(call, shown)
            except DuetError as error:
                call.seen.failed(error)
                self._finish(call, path)
                raise

        async def handle(_: object, context: Context) -> None:
            answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_STREAM_WINDOW)
            flying = _Flying()
            why: DuetError | None = None

            async def read(tasks: asyncio.TaskGroup) -> None:
                nonlocal why
                try:
                    async for data in self._requests(context, stream, flying):
                        call, access = await asked(shown, context)
                        flying.count += 1
                        await answers.put(tasks.create_task(one(data, call, access)))
                except DuetError as error:
                    why = error
                    if isinstance(error, Withheld):
                        raise  # nothing that is in flight is waited for
                await answers.put(None)

            line, begun = self._arriving.call(context), self._begin(context, "")
            try:
                shown, caller = await self._stream_let_in(begun, context, line)
            except DuetError as error:
                begun.seen.failed(error)
                self._finish(begun, path)
                code, text = plain(error)
                await context.abort(code, text, (*errors.metadata(error), *errors.observed(begun.seen)))
            context.set_trailing_metadata(errors.observed(begun.seen))
            stream = self._arriving.open(line, caller)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(read(tasks))
                    while (task := await answers.get()) is not None:
                        await self._write(await task, context)
                        flying.count -= 1
            except* Withheld:
                pass
            if why is None and self.ending.is_set():
                why = Unavailable(STOPPING)
            if why is not None:
                await context.abort(*plain(why), (*errors.metadata(why), *errors.observed(begun.seen)))

        return grpc.stream_stream_rpc_method_handler(handle)

    def watch(self, behaviour: Watch, request: Any) -> grpc.RpcMethodHandler:
        """The handler of a call that everybody may make and that lasts until the client leaves or the server stops."""

        async def handle(given: object, context: Context) -> None:
            async def send(answer: Message) -> None:
                await context.write(answer.SerializeToString())

            line = self._arriving.call(context)
            try:
                _Place(self._watches, self._arriving.caller(line, context))
                data = await self._open_message(given, context, line)
                await behaviour(_parsed(data, request), send)
                raise Unavailable(STOPPING)
            except DuetError as error:
                await context.abort(*plain(error), errors.metadata(error))

        return grpc.unary_stream_rpc_method_handler(handle)

    async def _write(self, answer: bytes, context: Context) -> None:
        held = self._unread.hold(context, len(answer))
        try:
            await context.write(answer)
        finally:
            self._unread.release(held)

    def _finish(self, call: Call, path: str) -> None:
        self._observer.finish(call.seen, method="GRPC", path=path, status=_number(call.seen))

    def _shown(self, context: Context) -> Shown | None:
        return self._admission.shown(context) if self._admission is not None else None

    async def _identified(self, call: Call, shown: Shown | None, place: _Place | None = None) -> Access | None:
        """Whose request it is, which the place counts for from now on; None where nobody is asked."""
        if self._admission is None or shown is None:
            return None
        access = await self._admission.identify(call.seen, shown)
        if place is not None:
            place.move(access.identity.id)
        return access

    async def _stream_let_in(self, call: Call, context: Context, line: Line) -> tuple[Shown | None, str]:
        """What it shows of who calls, and who that is."""
        place, shown = _Place(self._places, self._arriving.caller(line, context)), self._shown(context)
        await self._identified(call, shown, place)
        return shown, place.caller

    async def _entered(
        self,
        read: Callable[[], Awaitable[bytes]],
        call: Call,
        behaviour: Behaviour,
        request: Any,
        access: Access | None,
    ) -> bytes:
        """The answer, for one who has room in its quota; the message is read then."""
        if access is None or self._admission is None:
            return await self._answer(await read(), call, behaviour, request)
        self._admission.enter(call.seen, access)
        try:
            data = await read()
            access.bytes_in = len(data)
            answer = await self._answer(data, call, behaviour, request)
        finally:
            self._admission.leave(access)
        access.bytes_out = len(answer)
        return answer

    async def _message(self, given: object, context: Context, line: Line, receiving: Receiving, caller: str) -> bytes:
        if isinstance(given, bytes):
            return given
        counted = cast(Context, _Reading(context, line, self._max_message_bytes))
        try:
            data = await receiving.message(counted, caller)
        except BaseException:
            line.abandoned += 1
            raise
        line.handed_over(len(data))
        return data

    async def _open_message(self, given: object, context: Context, line: Line) -> bytes:
        data = await self._message(given, context, line, self._open_receiving, self._arriving.caller(line, context))
        if len(data) > _OPEN_MAX_BYTES and not isinstance(given, bytes):
            raise ResourceExhausted(f"a message of {len(data)} bytes; this call takes up to {_OPEN_MAX_BYTES}")
        return data

    async def _answer(self, data: bytes, call: Call, behaviour: Behaviour, request: Any) -> bytes:
        """The serialized answer. Raises nothing but DuetError, after noting it, and CancelledError."""
        in_flight = self._observer.metrics.in_flight(call.seen.front) if call.seen.front else None
        if in_flight is not None:
            in_flight.inc()
        try:
            if call.seen.front:
                self._unread.check()
            message = call.read(data, request)
            if len(data) >= _LARGE_BYTES:
                await asyncio.sleep(0)  # reading it takes milliseconds, and so does decoding it: others are in between
            return (await behaviour(message, call)).SerializeToString()
        except DuetError as error:
            call.seen.failed(error)
            raise
        except asyncio.CancelledError:
            call.seen.code = Code.CANCELLED.name
            raise
        except Exception as error:
            log.exception("request %s failed", call.seen.id)
            text = f"the gateway failed on this request; its log tells more under request id {call.seen.id}"
            failure = Internal(text)
            call.seen.failed(failure)
            raise failure from error
        finally:
            if in_flight is not None:
                in_flight.dec()

    def _begin(self, context: Context, front: str) -> Call:
        given = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        seen = self._observer.begin(given.get("x-request-id"), given.get("traceparent"))
        seen.front = front
        left = context.time_remaining()
        # Without a deadline, gRPC gives one that is centuries away.
        deadline = asyncio.get_running_loop().time() + left if left is not None and left < _FOR_EVER else None
        return Call(seen, given.get(pins.VARIANT), deadline, given.get(pins.CRITICALITY), given.get(pins.SIGNATURE))

    def _trailing(self, call: Call) -> errors.Metadata:
        served = ((pins.VARIANT, call.seen.variant), (pins.VERSION, call.seen.version)) if call.seen.variant else ()
        return (*served, *errors.observed(call.seen))

    async def _requests(self, context: Context, stream: Stream, flying: _Flying) -> AsyncIterator[bytes]:
        """The requests of a stream, until the client has no more or the server is about to stop.

        Raises Unavailable for a stream that was idle for too long, and Withheld.
        """
        ending = asyncio.create_task(self.ending.wait())
        try:
            while not self.ending.is_set():
                reading = asyncio.create_task(context.read())
                stream.reads(reading)
                try:
                    while not await self._come(reading, ending):
                        if not flying.count:
                            raise Unavailable(_IDLE.format(self._idle_seconds))
                    data = reading.result() if reading.done() and stream.why is None else grpc.aio.EOF
                finally:
                    reading.cancel()
                stream.has_read(len(data) if data is not grpc.aio.EOF else 0)
                if data is grpc.aio.EOF:
                    return
                yield data
        finally:
            ending.cancel()

    async def _come(self, *awaited: asyncio.Task[Any]) -> bool:
        done, _ = await asyncio.wait(awaited, timeout=self._idle_seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)


class _Reading:
    """A call whose message counts for its connection while it is read, and not while it waits for its turn."""

    __slots__ = ("_context", "_line", "_size")

    def __init__(self, context: Context, line: Line, size: int) -> None:
        self._context = context
        self._line = line
        self._size = size

    async def read(self) -> bytes:
        self._line.reading += self._size
        try:
            data: bytes = await self._context.read()
        finally:
            self._line.reading -= self._size
        return data


@dataclass(slots=True)
class _Flying:
    """How many of a stream's requests have no answer that left."""

    count: int = 0


def _parsed(data: bytes, request: Any) -> Any:
    try:
        return request.FromString(data)
    except DuetError:
        raise
    except Exception as error:
        raise InvalidArgument(f"the request is no message of this call: {error}") from error


def _number(seen: Observation) -> int:
    return int(grpc.StatusCode[seen.code].value[0])
