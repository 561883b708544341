"""The two ends of a connection, against each other and against libzmq's, over real sockets: what arrives, who is heard, what is
lost and how that shows."""

import contextlib
import itertools
import os
import resource
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, cast

import pytest
import zmq

from hotpool import router as router_module
from hotpool.dealer import Dealer
from hotpool.errors import BadInput, RemoteProtocolError
from hotpool.router import Router
from hotpool.zmtp import opening, pack

PATIENCE_S = 20.0
MESSAGES: list[list[bytes | memoryview]] = [
    [b"one"], [b"", b"two", b"x" * 20_000], [memoryview(b"three"), b""], [b"4" * 255], [b"5" * 256, bytes(3_000_000)], [b"6"],
]  # fmt: skip


@pytest.fixture
def path() -> Iterator[Path]:
    with TemporaryDirectory(prefix="hp") as folder:
        yield Path(folder) / "socket"


@pytest.fixture
def endpoint(path) -> str:
    return f"ipc://{path}"


@pytest.fixture
def router(endpoint) -> Iterator[Router]:
    with closing(Router(endpoint, max_bytes=4_000_000, high_water=8)) as made:
        yield made


@pytest.fixture
def dealer(endpoint, router) -> Iterator[Dealer]:
    with closing(Dealer(endpoint)) as made:
        yield made


@pytest.fixture
def sockets() -> Iterator[Callable[[int], "zmq.Socket[bytes]"]]:
    """Makes those of libzmq."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(kind: int) -> "zmq.Socket[bytes]":
        made.append(context.socket(kind))
        return made[-1]

    yield make
    context.destroy(linger=0)


def receive(end: Router | Dealer) -> list[Any]:
    return list(end.receive(100) if isinstance(end, Router) else end.receive())


def turn_until(claim, *ends: Router | Dealer):
    """Lets each end do what it has to do until there is something to return; what they receive goes to the claim."""
    deadline = monotonic() + PATIENCE_S
    arrived: list[Any] = []
    while (found := claim(arrived)) is None:
        assert monotonic() < deadline, arrived
        readable, _, _ = select.select(ends, [], [], 0.05)
        for end in readable:
            arrived.extend(receive(end))
    return found


def take(n: int, *ends):
    return turn_until(lambda arrived: arrived if len(arrived) >= n else None, *ends)


def plain(frames) -> list[bytes]:
    return [bytes(frame) for frame in frames]


def test_messages_of_all_sizes_arrive_in_their_order_both_ways(router, dealer):
    for frames in MESSAGES:
        assert dealer.send(frames)
    heard = take(len(MESSAGES), router, dealer)
    (connection,) = {connection for connection, _ in heard}
    assert [frames for _, frames in heard] == [plain(frames) for frames in MESSAGES]
    for frames in MESSAGES:
        assert router.send(connection, frames)
    assert take(len(MESSAGES), router, dealer) == [plain(frames) for frames in MESSAGES]


def test_a_dealer_of_libzmq_is_understood_and_understands(router, endpoint, sockets):
    peer = sockets(zmq.DEALER)
    peer.connect(endpoint)
    for frames in MESSAGES:
        peer.send_multipart(frames)
    heard = take(len(MESSAGES), router)
    assert [frames for _, frames in heard] == [plain(frames) for frames in MESSAGES]
    for frames in MESSAGES:
        assert router.send(heard[0][0], frames)
    echoed: list[list[bytes]] = []

    def poll(_):
        if peer.poll(0):
            echoed.append(peer.recv_multipart())
        return echoed if len(echoed) == len(MESSAGES) else None

    assert turn_until(poll, router) == [plain(frames) for frames in MESSAGES]


def test_a_router_of_libzmq_is_understood_and_understands(endpoint, sockets):
    peer = sockets(zmq.ROUTER)
    peer.bind(endpoint)
    with closing(Dealer(endpoint)) as dealer:
        for frames in MESSAGES:
            assert dealer.send(frames)
        heard: list[list[bytes]] = []

        def poll(_):
            if peer.poll(0):
                heard.append(peer.recv_multipart())
            return heard if len(heard) == len(MESSAGES) else None

        turn_until(poll, dealer)
        assert [frames[1:] for frames in heard] == [plain(frames) for frames in MESSAGES]
        for frames in heard:
            peer.send_multipart(frames)
        assert take(len(MESSAGES), dealer) == [plain(frames) for frames in MESSAGES]


def test_each_peer_has_a_name_of_its_own_and_none_is_given_twice(router, endpoint):
    names = set()
    for number in range(5):
        with closing(Dealer(endpoint)) as dealer:
            dealer.send([b"%d" % number])
            ((name, frames),) = take(1, router, dealer)
            assert frames == [b"%d" % number]
            assert name not in names
            names.add(name)


def test_a_peer_that_is_not_there_or_not_any_more_takes_nothing(router, dealer):
    assert not router.send(b"nobody", [b"x"])
    dealer.send([b"hello"])
    ((name, _),) = take(1, router, dealer)
    dealer.disconnect()
    assert not router.send(name, [b"x"]), "writing shows it, though it was not read of"
    assert not router.send(name, [b"x"])
    assert receive(router) == []
    assert not router._peers


def test_a_peer_that_does_not_read_takes_so_many_and_then_nothing_of_a_message(router, dealer):
    dealer.send([b"hello"])
    ((name, _),) = take(1, router, dealer)
    payload = bytes(400_000)  # more than the kernel keeps
    n_sent = 0
    while router.send(name, [b"%d" % n_sent, payload]):
        n_sent += 1
        assert n_sent <= 9
    assert n_sent >= 8
    assert take(n_sent, router, dealer) == [[b"%d" % n, payload] for n in range(n_sent)]
    assert router.send(name, [b"again"])
    assert take(1, dealer) == [[b"again"]]


class Narrow:
    """In place of a connection's socket: takes so many bytes at each writing; none when it is over."""

    def __init__(self, real: Any, takes: list[int]) -> None:
        self._real, self._takes = real, takes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def sendmsg(self, pieces: Any, *_: Any) -> int:
        n_bytes = self._takes.pop(0) if self._takes else 0
        if not n_bytes:
            raise BlockingIOError
        return int(self._real.send(b"".join(pieces)[:n_bytes]))


@pytest.mark.parametrize("takes", [[10, 0, 1000], [10, 5, 1000], [10, 1000, 7], [0, 0, 0], [1, 1, 1, 1, 1]])
def test_what_is_written_in_parts_arrives_in_its_order(router, dealer, takes):
    dealer.send([b"hello"])
    take(1, router, dealer)
    stream = cast(Any, dealer._stream)
    real, stream._socket = stream._socket, Narrow(stream._socket, takes)
    for n in range(3):
        assert dealer.send([b"%d" % n, bytes(100)])
    stream._socket = real
    assert [frames for _, frames in take(3, router, dealer)] == [[b"%d" % n, bytes(100)] for n in range(3)]


def test_what_waits_goes_on_with_the_next_message_too(router, dealer):
    dealer.send([b"hello"])
    ((name, _),) = take(1, router, dealer)
    assert router.send(name, [bytes(400_000)])

    def read_and_send(arrived):
        router.send(name, [b"more"])
        return arrived or None

    assert turn_until(read_and_send, dealer)[0] == [bytes(400_000)], "though the router does nothing but send"


def test_who_waits_for_the_other_end_to_begin_does_not_spin(path, endpoint):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with closing(Dealer(endpoint)) as dealer:
            assert dealer.send([b"hello"])
            assert not dealer.wait(0)


def test_a_broker_that_does_not_read_takes_so_many_and_then_nothing_of_a_message(router, dealer):
    dealer.send([b"hello"])
    take(1, router, dealer)
    payload = bytes(10_000)
    n_sent = 0
    while dealer.send([b"%d" % n_sent, payload]):
        n_sent += 1
        assert n_sent <= 1100
    assert n_sent >= 1000
    heard = take(n_sent, router, dealer)
    assert [frames for _, frames in heard] == [[b"%d" % n, payload] for n in range(n_sent)]


def test_nothing_here_is_none_and_its_descriptor_is_not_readable(router, dealer):
    dealer.send([b"hello"])
    take(1, router, dealer)
    assert receive(router) == []
    assert receive(dealer) == []
    assert select.select([router, dealer], [], [], 0)[0] == []
    assert not router.has_input
    assert not dealer.has_input


def test_what_was_read_and_not_taken_is_told_of(router, dealer):
    dealer.send([b"hello"])
    ((name, _),) = take(1, router, dealer)
    for n in range(3):
        dealer.send([b"%d" % n])
    router.wait(PATIENCE_S)
    assert list(router.receive(1)) == [(name, [b"0"])]
    assert router.has_input
    router.wait(PATIENCE_S)
    assert list(router.receive(100)) == [(name, [b"1"]), (name, [b"2"])]
    assert not router.has_input
    router.send(name, [b"a"])
    router.send(name, [b"b"])
    assert dealer.wait(PATIENCE_S)
    assert next(dealer.receive()) == [b"a"]
    assert dealer.has_input
    assert dealer.wait(0)
    assert receive(dealer) == [[b"b"]]
    assert not dealer.has_input


def test_nobody_there_is_lost_until_somebody_is(endpoint):
    with closing(Dealer(endpoint)) as dealer:
        number = dealer.fileno()
        assert dealer.is_lost
        assert dealer.send([b"into the void"])
        assert receive(dealer) == []
        assert not dealer.wait(0.01)
        with closing(Router(endpoint, max_bytes=100, high_water=8)) as router:
            dealer.connect()
            assert not dealer.is_lost
            dealer.send([b"hello"])
            assert take(1, router, dealer)[0][1] == [b"hello"]
            assert dealer.fileno() == number


def test_a_loss_is_told_of_until_it_is_heeded_and_what_came_before_it_can_be_taken(endpoint):
    router = Router(endpoint, max_bytes=100, high_water=8)
    with closing(Dealer(endpoint)) as dealer:
        dealer.send([b"hello"])
        ((name, _),) = take(1, router, dealer)
        router.send(name, [b"last"])
        router.send(name, [b"words"])
        router.close()
        assert receive(dealer) == [[b"last"], [b"words"]]
        assert receive(dealer) == []
        assert dealer.is_lost
        assert dealer.wait(0)
        dealer.disconnect()
        assert not dealer.wait(0)
        assert dealer.send([b"into the void"])


def test_a_loss_shows_when_something_is_sent(endpoint):
    router = Router(endpoint, max_bytes=100, high_water=8)
    with closing(Dealer(endpoint)) as dealer:
        dealer.send([b"hello"])
        take(1, router, dealer)
        router.close()
        assert dealer.send([b"into the void"])
        assert dealer.wait(0), "its owner is woken"
        assert receive(dealer) == []
        assert dealer.is_lost


def test_a_peer_that_is_gone_is_no_signal_to_who_writes_to_it(endpoint):
    router = Router(endpoint, max_bytes=100, high_water=8)
    before = signal.signal(signal.SIGPIPE, lambda *_: pytest.fail("SIGPIPE"))
    try:
        with closing(Dealer(endpoint)) as dealer:
            dealer.send([b"hello"])
            take(1, router, dealer)
            router.close()
            assert dealer.send([b"into the void"])
    finally:
        signal.signal(signal.SIGPIPE, before)


@pytest.mark.parametrize("junk", [b"\x04\x00", b"\x00\x00", b"\x04\x05\x04PING", b"\x00\x01x"])
def test_a_peer_that_floods_takes_little_at_a_time_and_nobody_elses_turn(router, dealer, path, junk):
    dealer.send([b"hello"])
    take(1, router, dealer)
    with socket.socket(socket.AF_UNIX) as flood:
        flood.connect(str(path))
        flood.sendall(opening(b"DEALER"))
        receive(router)
        flood.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                flood.sendall(junk * 10_000)
        dealer.send([b"still here"])
        n_rounds = 0
        while True:
            n_rounds += 1
            found = list(router.receive(10_000))
            assert len(found) <= 129, "of the flood a part at a time"
            if any(frames == [b"still here"] for _, frames in found):
                break
            assert n_rounds < 5
        assert router.has_input, "the flood is not over"


def test_what_a_peer_said_before_it_went_is_heard_although_nothing_can_be_sent_to_it(router, dealer):
    dealer.send([b"hello"])
    ((name, _),) = take(1, router, dealer)
    dealer.send([b"last words"])
    dealer.disconnect()
    assert not router.send(name, [b"x"])
    assert receive(router) == [(name, [b"last words"])]


def test_who_can_not_be_written_to_is_lost_even_if_it_only_stopped_reading(router, dealer, path):
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(path))
        deaf.sendall(opening(b"DEALER") + b"".join(pack([b"hello"])))
        ((name, _),) = take(1, router)
        deaf.shutdown(socket.SHUT_RD)
        assert not router.send(name, [b"x"])
        turn_until(lambda _: None if name in router._peers else True, router)


def test_many_who_connect_at_once_are_all_taken_on_although_others_messages_wait(router, dealer, endpoint):
    dealer.send([b"hello"])
    take(1, router, dealer)
    for n in range(5):
        dealer.send([b"%d" % n])
    next(router.receive(1))
    assert router.has_input
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(closing(Dealer(endpoint)))
        list(router.receive(0))
        assert len(router._peers) == 11
        assert router.has_input


def test_what_waits_for_one_peer_is_written_while_the_messages_of_others_are_not_taken(router, dealer, endpoint):
    dealer.send([b"hello"])
    ((name, _),) = take(1, router, dealer)
    assert router.send(name, [bytes(600_000)])
    with closing(Dealer(endpoint)) as other:
        for n in range(5):
            other.send([b"%d" % n])

        def read(_):
            list(router.receive(0))
            return True if router.has_input else None

        turn_until(read, other)

        def taken(arrived):
            list(router.receive(0))
            return arrived or None

        assert turn_until(taken, dealer) == [[bytes(600_000)]]
        assert router.has_input, "nobody has taken them"


def test_what_does_not_speak_zmtp_is_lost_at_once(path, endpoint):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with closing(Dealer(endpoint)) as dealer, listener.accept()[0] as other:
            other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n".ljust(64))
            assert dealer.wait(PATIENCE_S)
            assert receive(dealer) == []
            assert dealer.is_lost
            assert not dealer.has_input
            assert dealer.wait(0), "its owner is woken, to see to it"


def test_who_asks_what_does_not_speak_zmtp_is_told(path, endpoint):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with closing(Dealer(endpoint)) as dealer, listener.accept()[0] as other:
            other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(RemoteProtocolError, match="does not speak ZMTP 3, it begins with b'HTTP"):
                first(dealer, b"1")


def test_who_sends_too_large_a_frame_is_hung_up_on_and_nobody_else(router, dealer, endpoint):
    dealer.send([b"hello"])
    take(1, router, dealer)
    for frames in ([bytes(4_000_001)], [bytes(2_000_000), bytes(2_000_001)]):
        with closing(Dealer(endpoint)) as greedy:
            greedy.send(frames)
            turn_until(lambda arrived, greedy=greedy: True if greedy.is_lost else None, router, greedy)
        (reason,) = router.take_refusals()
        assert reason.startswith(f"a frame of {len(frames[-1])} bytes, allowed are")
    assert router.take_refusals() == []
    dealer.send([bytes(4_000_000)])
    assert len(take(1, router, dealer)[0][1][0]) == 4_000_000


def test_who_says_nothing_is_hung_up_on_when_the_next_one_comes(router, dealer, path, monkeypatch):
    dealer.send([b"hello"])
    take(1, router, dealer)
    monkeypatch.setattr(router_module, "HANDSHAKE_S", 0.0)
    silent, late = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with silent, late:
        silent.connect(str(path))
        receive(router)
        assert len(silent.recv(1000)) == len(opening(b"ROUTER"))
        late.connect(str(path))
        receive(router)
        silent.settimeout(PATIENCE_S)
        assert silent.recv(1000) == b""
        assert router.take_refusals() == ["said nothing for 0 s"]
        late.sendall(opening(b"DEALER") + b"".join(pack([b"x"])))
        assert take(1, router)[0][1] == [b"x"], "who has begun meanwhile is heard"
    dealer.send([b"still here"])
    assert take(1, router, dealer)[0][1] == [b"still here"]


def test_out_of_descriptors_those_who_say_nothing_make_room(router, dealer, path, endpoint, monkeypatch):
    dealer.send([b"hello"])
    take(1, router, dealer)
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    squatters = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    with contextlib.ExitStack() as stack, closing(Dealer(endpoint)) as other:
        for squatter in squatters:
            stack.enter_context(squatter).connect(str(path))
        turn_until(lambda _: True if len(router._peers) == 5 else None, router)
        now = monotonic()
        monkeypatch.setattr(router_module, "monotonic", lambda: now + router_module.HANDSHAKE_S + 1)
        other.disconnect()
        turn_until(lambda _: True if len(router._peers) == 4 else None, router)
        held = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
        late = stack.enter_context(socket.socket(socket.AF_UNIX))
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            late.connect(str(path))
            receive(router)
            assert len(router._peers) == 2, "those who said nothing are gone, the late one is there"
        finally:
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def test_out_of_descriptors_who_connects_is_turned_away_and_the_others_are_heard(router, dealer, path, endpoint):
    dealer.send([b"hello"])
    take(1, router, dealer)
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    with socket.socket(socket.AF_UNIX) as late, closing(Dealer(endpoint)) as other:
        turn_until(lambda _: True if len(router._peers) == 2 else None, router)
        other.disconnect()
        turn_until(lambda _: True if len(router._peers) == 1 else None, router)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            other.connect()
            assert other.is_lost, "and nothing is raised"
            late.connect(str(path))
            assert receive(router) == []
            late.settimeout(PATIENCE_S)
            assert late.recv(1000) == b""
            assert select.select([router], [], [], 0)[0] == [], "it does not spin"
            dealer.send([b"still here"])
            assert take(1, router, dealer)[0][1] == [b"still here"]
        finally:
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
        other.connect()
        other.send([b"hello"])
        assert take(1, router, other)[0][1] == [b"hello"]


def test_a_forked_child_that_closes_what_it_got_takes_nothing_from_its_parent(router, dealer):
    dealer.send([b"hello"])
    ((name, _),) = take(1, router, dealer)
    child = os.fork()
    if child == 0:
        dealer.close()
        router.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    dealer.send([b"still here"])
    assert take(1, router, dealer) == [(name, [b"still here"])]
    router.send(name, [b"so am I"])
    assert take(1, router, dealer) == [[b"so am I"]]


def test_a_socket_that_a_dead_process_left_is_replaced(path, endpoint):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with closing(Router(endpoint, max_bytes=100, high_water=8)) as router, closing(Dealer(endpoint)) as dealer:
        dealer.send([b"hello"])
        assert take(1, router, dealer)[0][1] == [b"hello"]


@pytest.mark.parametrize("address", ["127.0.0.1:5555", "tcp://127.0.0.1:5555", "ipc://", "ipc:///" + "x" * 103])
def test_what_is_no_address_of_a_unix_socket_is_refused(address):
    with pytest.raises(BadInput, match="expected something like ipc:///path"):
        Dealer(address)


# ---- asking


class Answerer:
    """A router in a thread of its own that hangs up after so many questions; `heard` are those it took."""

    def __init__(self, endpoint: str, *, answers: bool = True, hangs_up_after: int | None = None) -> None:
        self.heard: list[bytes] = []
        self._router = Router(endpoint, max_bytes=1000, high_water=8)
        self._stopping = threading.Event()
        self._answers, self._hangs_up_after = answers, hangs_up_after
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with closing(self._router):
            while not self._stopping.is_set() and len(self.heard) != self._hangs_up_after:
                self._router.wait(0.02)
                for connection, (question,) in self._router.receive(100):
                    self.heard.append(question)
                    if self._answers:
                        self._router.send(connection, [b"to " + question])

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()


def first(dealer: Dealer, question: bytes, timeout_s: float = PATIENCE_S, given_up: int | None = None):
    return next(dealer.ask(question, monotonic() + timeout_s, given_up), None)


def test_a_question_is_answered_and_the_next_one_over_the_same_connection(endpoint):
    with closing(Answerer(endpoint)), closing(Dealer(endpoint)) as dealer:
        assert first(dealer, b"1") == [b"to 1"]
        assert first(dealer, b"2") == [b"to 2"]


def test_an_answer_behind_much_else_is_found(endpoint):
    with closing(Router(endpoint, max_bytes=100, high_water=300)) as router, closing(Dealer(endpoint)) as dealer:
        dealer.send([b"hello"])
        ((name, _),) = take(1, router, dealer)
        sent = [[b"%d" % n] for n in range(200)]
        for frames in sent:
            assert router.send(name, frames)
        began = monotonic()
        assert list(itertools.islice(dealer.ask(b"?", monotonic() + PATIENCE_S), 200)) == sent
        assert monotonic() - began < PATIENCE_S / 2


def test_who_comes_later_is_found(endpoint):
    with closing(Dealer(endpoint)) as dealer:
        assert first(dealer, b"1", timeout_s=0.1) is None
        answers = dealer.ask(b"2", monotonic() + PATIENCE_S)
        late: list[Answerer] = []
        timer = threading.Timer(0.1, lambda: late.append(Answerer(endpoint)))
        timer.start()
        assert next(answers) == [b"to 2"]
        timer.join()
        late[0].close()
        assert late[0].heard == [b"2"]


def test_who_was_replaced_between_two_questions_is_not_missed(endpoint):
    with closing(Dealer(endpoint)) as dealer:
        for number in range(3):
            with closing(Answerer(endpoint)) as answerer:
                assert first(dealer, b"%d" % number) == [b"to %d" % number]
                assert answerer.heard == [b"%d" % number]


def test_a_question_that_was_taken_is_not_asked_again_and_ends_when_who_took_it_is_gone(endpoint):
    with closing(Dealer(endpoint)) as dealer:
        began = monotonic()
        with closing(Answerer(endpoint, answers=False, hangs_up_after=1)) as taker:
            assert first(dealer, b"order") is None
        assert taker.heard == [b"order"]
        assert monotonic() - began < PATIENCE_S / 2


def test_an_answer_that_is_late_is_none(endpoint):
    with closing(Answerer(endpoint, answers=False)), closing(Dealer(endpoint)) as dealer:
        began = monotonic()
        assert first(dealer, b"1", timeout_s=0.1) is None
        assert monotonic() - began >= 0.1


def test_who_is_hung_up_on_at_once_does_not_spin(path, endpoint, monkeypatch):
    n_connections = n_looks = 0
    receive_really = Dealer.receive

    def look(dealer):
        nonlocal n_looks
        n_looks += 1
        return receive_really(dealer)

    monkeypatch.setattr(Dealer, "receive", look)
    with socket.socket(socket.AF_UNIX) as listener, closing(Dealer(endpoint)) as dealer:
        listener.bind(str(path))
        listener.listen()
        asking = threading.Thread(target=lambda: first(dealer, b"1", timeout_s=0.5))
        asking.start()
        listener.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                listener.accept()[0].close()
                n_connections += 1
        asking.join()
    assert 3 <= n_connections <= 12
    assert n_looks <= 4 * n_connections + 4


def test_who_gives_up_does_not_wait_on(endpoint):
    reader, writer = os.pipe()
    with closing(Answerer(endpoint, answers=False)), closing(Dealer(endpoint)) as dealer:
        os.write(writer, b"x")
        began = monotonic()
        assert first(dealer, b"1", given_up=reader) is None
        assert monotonic() - began < PATIENCE_S / 2
    os.close(reader)
    os.close(writer)
