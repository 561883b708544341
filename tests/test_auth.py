"""gateway/auth.py: token files, and who is let in."""

import asyncio
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from starlette.requests import Request

from gateway.auth import COOKIE, MAX_WRONG_AT_ONCE, WRONG_TOKEN_S, Guard, make_guard, read_or_make_token
from gateway.failures import BadRequest, Forbidden, TooManyAttempts, Unauthorized
from gateway.tokens import is_token
from hotpool.errors import ConfigError
from hotpool.home import Home
from hotpool.metrics import Counter

ADMIN, INFERENCE = "a" * 43, "i" * 43
HOST = "127.0.0.1:8080"
OURS = {"origin": f"http://{HOST}"}


def guard(inference: str | None = None) -> Guard:
    return Guard(ADMIN, inference, Counter("refused", "", "reason"))


def request(**headers: str) -> Request:
    given = {"host": HOST} | headers
    return Request(
        {"type": "http", "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()]}
    )


def bearer(token: str, **more: str) -> Request:
    return request(authorization=f"Bearer {token}", **more)


def session_of(who: Guard, operator: str = "anna") -> dict[str, str]:
    return {"cookie": f"{COOKIE}={asyncio.run(who.log_in(request(), ADMIN, operator))}"}


# ---- token files


def test_a_token_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "home" / "admin-token"
    token = read_or_make_token(path)
    assert is_token(token)
    assert len(token) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_or_make_token(path) == token
    assert list(path.parent.iterdir()) == [path]


def test_all_who_start_at_once_get_the_same_token(tmp_path):
    for number in range(20):
        path = tmp_path / str(number) / "admin-token"
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(read_or_make_token, [path] * 8))) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "admin-token"
    read_or_make_token(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=r"admin-token can be read by others .*chmod 600"):
        read_or_make_token(path)


@pytest.mark.parametrize("text", ["", "short", "x" * 600, "two words of a token", "x" * 30 + "\n\n", "ä" * 30])
def test_a_file_that_holds_no_token_is_refused(tmp_path, text):
    path = tmp_path / "admin-token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="admin-token"):
        read_or_make_token(path)


def put_a_link(path) -> None:
    (path.parent / "elsewhere").write_text("x" * 43)
    (path.parent / "elsewhere").chmod(0o600)
    path.symlink_to(path.parent / "elsewhere")


def put_a_dangling_link(path) -> None:
    path.symlink_to(path.parent / "nowhere")


def put_a_folder(path) -> None:
    path.mkdir()


def put_a_pipe(path) -> None:
    os.mkfifo(path, 0o600)


def put_bytes(path) -> None:
    path.write_bytes(b"\xff" * 43)
    path.chmod(0o600)


@pytest.mark.parametrize("put", [put_a_link, put_a_dangling_link, put_a_folder, put_a_pipe, put_bytes])
def test_what_is_no_file_of_ours_is_refused(tmp_path, put: Callable[[object], None]):
    path = tmp_path / "admin-token"
    put(path)
    with pytest.raises(ConfigError, match="admin-token"):
        read_or_make_token(path)


def test_the_inference_token_is_made_only_if_one_is_wanted(tmp_path):
    home = Home(tmp_path)
    assert make_guard(home, False, Counter("refused", "", "reason")).inference is None
    assert not (tmp_path / "inference-token").exists()
    made = make_guard(home, True, Counter("refused", "", "reason"))
    assert (
        made.inference
        == (tmp_path / "inference-token").read_text().strip()
        != (tmp_path / "admin-token").read_text().strip()
    )


# ---- who is let in


def test_the_admin_token_lets_in_and_names_the_operator():
    assert asyncio.run(guard().require_admin(bearer(ADMIN))) == "http"
    assert asyncio.run(guard().require_admin(bearer(ADMIN, **{"x-hotpool-operator": "deploy"}))) == "deploy"


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Basic abc"}, {"cookie": f"{COOKIE}=x.y"}, {"cookie": "other=1"}]
)
def test_without_token_or_session_nobody_is_let_in(headers):
    with pytest.raises(Unauthorized, match="admin token"):
        asyncio.run(guard().require_admin(request(**headers)))


@pytest.mark.slow
def test_a_wrong_token_is_slowed_down_counted_and_not_helped_by_a_session():
    who = guard()
    session, began = session_of(who), monotonic()
    with pytest.raises(Unauthorized, match="wrong token"):
        asyncio.run(who.require_admin(bearer(INFERENCE, **session, **OURS)))
    assert monotonic() - began >= WRONG_TOKEN_S * 0.9
    assert who._refused["wrong_token",] == 1


def test_a_session_counts_for_our_own_page_alone():
    who = guard()
    session = session_of(who)
    assert asyncio.run(who.require_admin(request(**session, **OURS))) == "anna"
    for origin in (
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{HOST}.evil.example"},
    ):
        with pytest.raises(Forbidden, match="Origin"):
            asyncio.run(who.require_admin(request(**session, **origin)))
    assert who._refused["foreign_origin",] == 4


def test_another_site_can_not_log_somebody_in():
    with pytest.raises(Forbidden):
        asyncio.run(guard().log_in(request(origin="http://evil.example"), ADMIN, "anna"))


@pytest.mark.parametrize("operator", ["", "a\r\nb", "x" * 65])
def test_an_operator_has_a_name_that_can_be_kept(operator):
    with pytest.raises(BadRequest, match="operator"):
        asyncio.run(guard().log_in(request(), ADMIN, operator))
    with pytest.raises(BadRequest, match="operator"):
        asyncio.run(guard().require_admin(bearer(ADMIN, **{"x-hotpool-operator": operator})))


@pytest.mark.slow
def test_a_flood_of_wrong_tokens_is_refused_and_a_right_one_does_not_wait_for_it():
    who = guard()

    async def flood():
        wrong = [asyncio.create_task(who.require_admin(bearer("x" * 43))) for _ in range(3 * MAX_WRONG_AT_ONCE)]
        await asyncio.sleep(0)
        began = monotonic()
        assert await who.require_admin(bearer(ADMIN)) == "http"
        assert monotonic() - began < WRONG_TOKEN_S / 2
        return await asyncio.gather(*wrong, return_exceptions=True)

    outcomes = asyncio.run(flood())
    assert sum(isinstance(one, Unauthorized) for one in outcomes) == MAX_WRONG_AT_ONCE
    assert sum(isinstance(one, TooManyAttempts) for one in outcomes) == 2 * MAX_WRONG_AT_ONCE
    with pytest.raises(Unauthorized):
        asyncio.run(who.require_admin(bearer("x" * 43)))


@pytest.mark.slow
def test_inference_is_open_unless_it_has_a_token():
    asyncio.run(guard().require_inference(request().scope))
    who = guard(INFERENCE)
    for let_in in (bearer(INFERENCE), bearer(ADMIN), request(**session_of(who), **OURS)):
        asyncio.run(who.require_inference(let_in.scope))
    for kept_out in (request(), bearer("x" * 43), request(cookie=f"{COOKIE}=x.y")):
        with pytest.raises(Unauthorized):
            asyncio.run(who.require_inference(kept_out.scope))
    with pytest.raises(Forbidden):
        asyncio.run(who.require_inference(request(**session_of(who)).scope))


@pytest.mark.slow
def test_the_inference_token_changes_nothing():
    with pytest.raises(Unauthorized):
        asyncio.run(guard(INFERENCE).require_admin(bearer(INFERENCE)))
