"""gateway/limits.py: bodies and ids of requests."""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.requests import ClientDisconnect

from gateway.failures import TooMuchHeld
from gateway.limits import AROUND_BYTES, FORM_BYTES, JSON_BYTES, Limits
from hotpool.config import Config, Dispatch, Pictures
from hotpool.config import Gateway as GatewayConfig
from hotpool.errors import HotpoolError, TooLarge
from hotpool.metrics import Counter

CONFIG = Config(
    pictures=Pictures(max_bytes=1024),
    gateway=GatewayConfig(max_upload_bytes=10_000),
    dispatch=Dispatch(queue_max_bytes=100_000),
)


class App:
    """Reads its body, then waits until it may answer. read: bytes, by path."""

    def __init__(self) -> None:
        self.read: dict[str, int] = {}
        self.error: HotpoolError | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope, receive, send) -> None:
        status, more = 200, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                self.read[scope["path"]] = self.read.get(scope["path"], 0) + len(message["body"])
                more = message["more_body"]
            await self.go_on.wait()
        except HotpoolError as error:
            self.error, status = error, 413
        await send({"type": "http.response.start", "status": status, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})


async def ask(limits: Limits, path: str, pieces: Sequence[bytes | None], headers=()) -> dict[bytes, bytes]:
    """The answer's headers. A piece that is None: the client hangs up."""
    left, sent = list(pieces), []

    async def receive():
        piece = left.pop(0)
        return (
            {"type": "http.disconnect"}
            if piece is None
            else {"type": "http.request", "body": piece, "more_body": bool(left)}
        )

    async def send(message) -> None:
        sent.append(message)

    await limits({"type": "http", "path": path, "headers": list(headers)}, receive, send)
    return dict(sent[0]["headers"]) if sent else {}


def made(app: App) -> Limits:
    return Limits(app, CONFIG, Counter("refused", "", "reason"))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/predict", 1024 + AROUND_BYTES), ("/v2/models/m/infer", 1024 + AROUND_BYTES), ("/api/rollouts", JSON_BYTES),
        ("/v2/models/m/versions/v1/infer", 1024 + AROUND_BYTES), ("/v2/repository/index", JSON_BYTES), ("/healthz", JSON_BYTES),
        ("/update-model", JSON_BYTES), ("/api/versions", 10_000 + FORM_BYTES), ("/api/versions/v1", JSON_BYTES),
    ],
)  # fmt: skip
def test_a_body_may_be_so_large_and_no_larger(path, allowed):
    app = App()
    limits = made(app)
    asyncio.run(ask(limits, path, [bytes(allowed - 1), bytes(1)]))
    assert app.error is None
    assert app.read == {path: allowed}
    headers = asyncio.run(ask(limits, path, [bytes(allowed), bytes(1), b""], [(b"transfer-encoding", b"chunked")]))
    assert isinstance(app.error, TooLarge)
    assert str(allowed) in str(app.error)
    assert headers[b"connection"] == b"close"
    assert limits.refused["too_large",] == 1


def test_a_length_that_is_too_large_is_refused_before_a_byte_is_read():
    app = App()
    asyncio.run(ask(made(app), "/predict", [b"x"], [(b"content-length", b"1000000000")]))
    assert isinstance(app.error, TooLarge)
    assert app.read == {}


@pytest.mark.parametrize(
    ("headers", "is_read", "closes"),
    [
        ([], False, False), ([(b"content-length", b"65536")], False, False), ([(b"content-length", b"65537")], False, True),
        ([(b"transfer-encoding", b"chunked")], False, True), ([(b"content-length", b"65537")], True, False),
        ([(b"transfer-encoding", b"chunked")], True, False),
    ],
)  # fmt: skip
def test_an_answer_to_a_large_body_that_was_not_read_says_that_the_connection_ends(headers, is_read, closes):
    async def hasty(scope, receive, send) -> None:
        if is_read:
            await receive()
        await send({"type": "http.response.start", "status": 401})

    got = asyncio.run(ask(Limits(hasty, CONFIG, Counter("refused", "", "reason")), "/api/versions", [b"x"], headers))
    assert (b"connection" in got) == closes


def test_bodies_that_are_held_together_have_a_limit_too_and_it_is_given_back():
    app = App()
    limits = made(app)

    async def many() -> None:
        app.go_on.clear()
        limits.max_held_bytes = 3000
        held = [asyncio.create_task(ask(limits, "/predict", [bytes(1000)])) for _ in range(3)]
        await asyncio.sleep(0)
        assert limits.held_bytes == 3000
        await ask(limits, "/predict", [b"x"])
        assert isinstance(app.error, TooMuchHeld)
        await ask(limits, "/predict", [None])
        app.go_on.set()
        await asyncio.gather(*held)
        app.error = None
        await ask(limits, "/predict", [bytes(1000)] * 3)

    asyncio.run(many())
    assert app.error is None
    assert limits.held_bytes == 0
    assert limits.refused["too_much_held",] == 1


def test_an_upload_is_not_held():
    app = App()
    limits = made(app)
    limits.max_held_bytes = 10
    asyncio.run(ask(limits, "/api/versions", [bytes(9000)]))
    assert app.error is None


def test_a_client_that_hangs_up_is_no_error():
    app = App()
    limits = made(app)
    assert asyncio.run(ask(limits, "/predict", [b"x", None])) == {}
    assert limits.held_bytes == 0


def test_every_answer_has_the_requests_id_or_one_of_its_own():
    limits = made(App())
    given = asyncio.run(ask(limits, "/", [b""], [(b"x-request-id", b"abc-1/2:3")]))
    assert given == {b"a": b"b", b"x-request-id": b"abc-1/2:3", b"x-content-type-options": b"nosniff"}
    ids = {asyncio.run(ask(limits, "/", [b""]))[b"x-request-id"] for _ in range(100)}
    assert len(ids) == 100


@pytest.mark.parametrize("bad", [b"", b"a b", b"a\tb", b"\xff", b"x" * 129, b"a\r\nSet-Cookie: x=y", b"\x00"])
def test_an_id_that_could_mean_something_else_in_a_header_does_not_come_back(bad):
    got = asyncio.run(ask(made(App()), "/", [b""], [(b"x-request-id", bad)]))[b"x-request-id"]
    assert got != bad
    assert got.isascii()
    assert got.decode().isprintable()
