"""Shell: connections within limits: how many, how large a header, how slow a sender or reader.

uvicorn's own protocol limits none of these. What it does with a request that arrives whole and in time is left as it is.
"""

import asyncio
import resource
from enum import Enum
from http import HTTPStatus
from itertools import count
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hotpool.config import Gateway
from hotpool.errors import ConfigError, HotpoolError
from hotpool.metrics import Counter

from .failures import BadRequest, HeaderTooLarge, TooManyConnections, TooSlow, body_of, headers_of, status_of
from .limits import NO_SNIFFING, REQUEST_ID, request_id

MAX_HEADER_BYTES = 16 * 1024
MAX_PIPELINED = 16  # requests that wait for the answer to an earlier one of their connection
LEAST_BYTES_PER_S = 4096  # of a body: half of what a slow mobile network carries
MAX_UNREAD_BYTES = (
    64 * 1024
)  # of a body whose request is answered already: so much is read for the sake of the next request
LINGER_S = 2.0  # for a client that is still sending to read why nobody listens any more
MAX_LINGERING = 64
_OF_BODIES = (b"content-length", b"transfer-encoding")
JOINED_BYTES = 64 * 1024  # of a body: to copy more costs more than to write twice
OTHER_FILES = 256  # that the process may have open besides: connections to broker and controller, uploads, static files


class Receiving(Enum):
    """What the next byte of a connection belongs to."""

    NOTHING = "nothing"  # to a request that has not begun
    HEADER = "header"
    BODY = "body"
    WASTE = "waste"  # to what is thrown away: the connection is about to be closed


class Connection(HttpToolsProtocol):
    """One client's connection. Between two requests it is idle, and then gives way when there are too many."""

    settings: ClassVar[Gateway]
    refused: ClassVar[Counter]
    lingering: ClassVar[set["Connection"]]
    order: ClassVar["count[int]"]
    transport: "Outgoing"  # type: ignore[assignment]
    flow: "Flow"

    _receiving = Receiving.NOTHING
    _answering: RequestResponseCycle | None = None  # of the requests that are here, the first
    _idle_since = 0  # in the order in which connections became so: the loop's clock is too coarse for that
    _header_bytes = 0  # of this message, with its trailer, as far as the parser has told of them
    _opaque_bytes = 0  # that came since it last told of a whole header or a piece of body
    _window_bytes = 0  # of body, since the sender's clock was set
    _unread_bytes = 0  # of body, since its request was answered
    _sender_clock: asyncio.TimerHandle | None = None
    _reader_clock: asyncio.TimerHandle | None = None
    _end_clock: asyncio.TimerHandle | None = None

    def is_idle(self) -> bool:
        return self._receiving is Receiving.NOTHING and self._due() is None

    # ---- what happens to the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow, self.transport = Flow(transport), Outgoing(transport, self)
        self._idle_since = next(self.order)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if len(self.connections) > self.settings.max_connections:
            self._find_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clocks()
        self.lingering.discard(self)
        if self._answering is not None:  # uvicorn tells only the newest of several requests
            self._answering.disconnected = not self._answering.response_complete
            self._answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._receiving is Receiving.WASTE:
            return
        self._unset_keepalive_if_required()
        if self._receiving is Receiving.NOTHING:
            self._receiving = Receiving.HEADER  # an empty line before it is a beginning too
        self._opaque_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            ours = error.__context__
            self._refuse(ours if isinstance(ours, HotpoolError) else BadRequest("these bytes are not HTTP/1.1"))
        else:
            self._watch_sender()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_clock is not None:
            self._reader_clock.cancel()

    # ---- what the parser tells

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._header_bytes = Receiving.HEADER, 0
        self._stop_sender_clock()

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value) + len(": \r\n"))
        if (
            self._receiving is not Receiving.BODY
        ):  # a trailer is not taken for a header, which a proxy may have looked at
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise BadRequest(f"more than {MAX_PIPELINED} requests were sent before the answer to the first")
        if self.parser.should_upgrade() and any(name in _OF_BODIES for name, _ in self.headers):
            # The parser takes what follows an upgrade for another protocol, and the body for the next request.
            raise BadRequest("a request with a body can't ask for another protocol; leave out the header Upgrade")
        super().on_headers_complete()
        self._receiving, self._opaque_bytes, self._unread_bytes = Receiving.BODY, 0, 0
        self._stop_sender_clock()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._opaque_bytes = 0
        self._window_bytes += len(body)
        if self.cycle.response_complete:
            self._unread_bytes += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._receiving, self._opaque_bytes = Receiving.NOTHING, 0
        self.headers = []  # what comes next is not this request's

    # ---- what becomes of an answer

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.transport.flush()
        super().on_response_complete()
        self._idle_since = next(self.order)

    def leave(self) -> None:
        """Closes the connection. A client that is still sending would lose the answer by that, so it may read it first."""
        inner = self.transport.inner
        if inner.is_closing() or self in self.lingering:
            return
        is_sending = self._receiving in (Receiving.BODY, Receiving.WASTE)
        if is_sending and len(self.lingering) < MAX_LINGERING:
            self._linger()
        elif is_sending:
            inner.abort()
        else:
            inner.close()
            self._end_clock = self.loop.call_later(self.settings.body_timeout_s, inner.abort)

    def _linger(self) -> None:
        self._stop_clocks()
        self._receiving = Receiving.WASTE
        self.connections.discard(self)
        self.lingering.add(self)
        self.pipeline.clear()
        self.flow.resume_reading()
        self.transport.inner.write_eof()
        self._end_clock = self.loop.call_later(LINGER_S, self.transport.inner.abort)

    # ---- limits

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:  # served as if it had not been asked for
                data = data[upgrade.args[0] :]
            else:
                return

    def _count_header(self, n: int) -> None:
        self._header_bytes += n
        if self._header_bytes > MAX_HEADER_BYTES:
            raise _header_too_large()

    def _watch_sender(self) -> None:
        if self._receiving is Receiving.NOTHING:
            self._stop_sender_clock()
        elif self._opaque_bytes > MAX_HEADER_BYTES:
            self._refuse(_header_too_large())
        elif self._unread_bytes > MAX_UNREAD_BYTES:
            self.transport.close()
        elif self._sender_clock is None:
            self._start_sender_clock()

    def _start_sender_clock(self) -> None:
        self._window_bytes, self.flow.has_paused = 0, self.flow.read_paused
        is_header = self._receiving is Receiving.HEADER
        timeout_s = self.settings.header_timeout_s if is_header else self.settings.body_timeout_s
        self._sender_clock = self.loop.call_later(timeout_s, self._judge_sender)

    def _judge_sender(self) -> None:
        self._sender_clock = None
        is_body = self._receiving is Receiving.BODY
        waits_for_us = self.flow.has_paused or (is_body and self.cycle.waiting_for_100_continue)
        least = LEAST_BYTES_PER_S * self.settings.body_timeout_s
        if waits_for_us or (is_body and self._window_bytes >= least):
            self._start_sender_clock()
        elif is_body:
            self._refuse(TooSlow(f"the body came with less than {LEAST_BYTES_PER_S} bytes per second"))
        else:
            self._refuse(TooSlow(f"the header took more than {self.settings.header_timeout_s:g} s"))

    def _watch_reader(self) -> None:
        self._unsent_bytes = self.transport.inner.get_write_buffer_size()
        self._reader_clock = self.loop.call_later(self.settings.body_timeout_s, self._judge_reader)

    def _judge_reader(self) -> None:
        if self.transport.inner.get_write_buffer_size() < self._unsent_bytes:
            self._watch_reader()
            return
        self.refused["slow_reader",] += 1
        self.transport.inner.abort()

    def _find_room(self) -> None:
        others = (one for one in self.connections if isinstance(one, Connection) and one is not self and one.is_idle())
        idlest = min(others, key=lambda one: one._idle_since, default=None)
        if idlest is None:
            self._refuse(TooManyConnections(f"{self.settings.max_connections} connections are busy; try again later"))
        else:
            self.connections.discard(idlest)
            idlest.transport.close()

    def _refuse(self, error: HotpoolError) -> None:
        """Answers with the error and closes. What was asked before is answered first, and then the error is not told."""
        self.refused[error.code,] += 1
        self._stop_sender_clock()
        asked = self.cycle if self._receiving is Receiving.BODY else None
        due = self._due()
        self._receiving = Receiving.WASTE
        self.pipeline.clear()
        if due is None and asked is None:
            self._answer(error)
        elif due is None:
            self.transport.close()  # it has its answer
        elif due is not asked:
            due.keep_alive = False
        elif due.response_started:
            self.transport.inner.abort()
        else:
            self._answer(error)
            due.disconnected = True
            due.message_event.set()

    def _answer(self, error: HotpoolError) -> None:
        status, body = status_of(error), body_of(error)
        headers = [
            *self.server_state.default_headers, *headers_of(error), (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)), (b"connection", b"close"), NO_SNIFFING,
            (REQUEST_ID, request_id(self.headers or ())),
        ]  # fmt: skip
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join((*lines, b"", body)))
        self.transport.close()

    def _due(self) -> RequestResponseCycle | None:
        """The request whose answer comes next, if it is not complete."""
        return None if self._answering is None or self._answering.response_complete else self._answering

    def _stop_sender_clock(self) -> None:
        if self._sender_clock is not None:
            self._sender_clock.cancel()
            self._sender_clock = None

    def _stop_clocks(self) -> None:
        self._stop_sender_clock()
        self._unset_keepalive_if_required()
        for clock in (self._reader_clock, self._end_clock):
            if clock is not None:
                clock.cancel()


class Flow(FlowControl):
    """has_paused: at some time since it was last set to False nothing was read; what did not come is not the sender's fault."""

    has_paused = False

    def pause_reading(self) -> None:
        self.has_paused = True
        super().pause_reading()


class Outgoing:
    """The transport as uvicorn uses it for answers; how it is closed is the connection's affair.

    A header waits for its body. Written alone it wakes the client for nothing, which on a busy machine takes our place on
    the processor: that was half of what an answer costs.
    """

    def __init__(self, inner: asyncio.Transport, connection: Connection) -> None:
        self.inner, self._connection = inner, connection
        self._header = b""

    def write(self, data: bytes) -> None:
        if self._header and len(data) <= JOINED_BYTES:
            data, self._header = self._header + data, b""
        elif self._header:
            self.flush()
        elif data.endswith(b"\r\n\r\n") and b"\r\ncontent-length: " in data:
            self._header = data
            return
        self.inner.write(data)

    def flush(self) -> None:
        """Waits no longer: there is no body, or a large one."""
        if self._header:
            self.inner.write(self._header)
            self._header = b""

    def close(self) -> None:
        self.flush()
        self._connection.leave()

    def is_closing(self) -> bool:
        return self.inner.is_closing() or self._connection in self._connection.lingering


def protocol_for(settings: Gateway, refused: Counter) -> type[Connection]:
    """What uvicorn is to make of each connection. refused: counts by reason who is turned away."""
    shared = {"settings": settings, "refused": refused, "lingering": set(), "order": count()}
    return type("LimitedConnection", (Connection,), shared)


def allow_files(max_connections: int) -> None:
    """Lets the process have as many open files as so many connections need.

    Raises:
        ConfigError: the system does not allow it.
    """
    besides = MAX_LINGERING + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and max_connections + besides > hard:
        raise ConfigError(
            f"gateway.max_connections = {max_connections} needs {max_connections + besides} open files, and the system "
            f"allows this process {hard} (ulimit -Hn): set it to at most {hard - besides}, or allow more"
        )
    if soft != resource.RLIM_INFINITY and max_connections + besides > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max_connections + besides, hard))


def _header_too_large() -> HotpoolError:
    return HeaderTooLarge(f"the header has more than {MAX_HEADER_BYTES} bytes")
