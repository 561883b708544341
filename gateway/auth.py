"""Shell: who may change the pool, and who may use it: token files, `Authorization: Bearer`, and sessions of browsers."""

import asyncio
import logging
import os
import secrets
import stat
import time
from pathlib import Path
from typing import NoReturn

from starlette.requests import Request
from starlette.types import Scope

from hotpool.errors import ConfigError
from hotpool.home import Home
from hotpool.metrics import Counter

from .failures import BadRequest, Forbidden, TooManyAttempts, Unauthorized
from .tokens import (
    MAX_OPERATOR,
    MAX_TOKEN,
    MIN_TOKEN,
    SESSION_S,
    Session,
    bearer,
    is_operator,
    is_own_origin,
    is_same,
    is_token,
    read_session,
    write_session,
)

COOKIE = "hotpool_session"
WRONG_TOKEN_S = 0.3  # a person does not mind, a guesser does
MAX_WRONG_AT_ONCE = 32
OPERATOR_HEADER = "x-hotpool-operator"
DEFAULT_OPERATOR = "http"

log = logging.getLogger("hotpool.gateway")


class Guard:
    """Knows the tokens. inference: None when anybody may use the pool."""

    def __init__(self, admin: str, inference: str | None, refused: Counter) -> None:
        self.inference = inference
        self._admin, self._refused = admin, refused
        self._wrong_now = 0

    def session(self, request: Request) -> Session | None:
        """Of a browser that has logged in."""
        return read_session(request.cookies.get(COOKIE, ""), self._admin, time.time())

    async def require_admin(self, request: Request) -> str:
        """The operator's name, for the journal.

        Raises:
            Unauthorized: no token, a wrong one, or a session that has run out.
            Forbidden: a session, and no word that the request comes from our own page.
        """
        token = bearer(request.headers.get("authorization"))
        if token is not None:
            await self._check(token, self._admin)
            given = request.headers.get(OPERATOR_HEADER, DEFAULT_OPERATOR)
            return _operator(given.encode("latin-1").decode("utf-8", "replace"))
        session = self.session(request)
        if session is None:
            raise Unauthorized(
                "this needs the admin token, as the header Authorization: Bearer TOKEN; see HOME/admin-token"
            )
        self._check_origin(request)
        return session.operator

    async def require_inference(self, scope: Scope) -> None:
        """Where a token is needed that of inference will do, or the admin's, or a session of our own page. Raises as above."""
        if self.inference is None:
            return
        request = Request(scope)
        token = bearer(request.headers.get("authorization"))
        if token is not None:
            await self._check(token, self.inference, self._admin)
        elif self.session(request) is None:
            raise Unauthorized(
                "this needs the token in HOME/inference-token, as the header Authorization: Bearer TOKEN"
            )
        else:
            self._check_origin(request)

    async def log_in(self, request: Request, token: str, operator: str) -> str:
        """The cookie. Raises like `require_admin`."""
        if "origin" in request.headers:
            self._check_origin(request)
        await self._check(token, self._admin)
        return write_session(Session(_operator(operator), time.time() + SESSION_S), self._admin)

    async def _check(self, given: str, *right: str) -> None:
        if not any([is_same(given, token) for token in right]):  # noqa: C419 - all are compared, so that time tells nothing
            await self._refuse()

    async def _refuse(self) -> NoReturn:
        self._refused["wrong_token",] += 1
        if self._wrong_now >= MAX_WRONG_AT_ONCE:
            raise TooManyAttempts("too many wrong tokens; try again later")
        self._wrong_now += 1
        try:
            await asyncio.sleep(WRONG_TOKEN_S)
        finally:
            self._wrong_now -= 1
        raise Unauthorized("wrong token")

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("origin")
        if not is_own_origin(origin, request.headers.get("host")):
            self._refused["foreign_origin",] += 1
            raise Forbidden(f"Origin is {origin!r}, not this site: a session counts only for its own page")


def make_guard(home: Home, wants_inference_token: bool, refused: Counter) -> Guard:
    """Makes the token files that are missing. Raises ConfigError."""
    inference = read_or_make_token(home.root / "inference-token") if wants_inference_token else None
    return Guard(read_or_make_token(home.root / "admin-token"), inference, refused)


def read_or_make_token(path: Path) -> str:
    """Whole or not at all, and the same for all who start at once.

    Raises:
        ConfigError: it can't be read, others can read it too, or it holds no token.
    """
    if not path.exists():
        _make_token(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, encoding="utf-8") as file:
            _check_is_private(path, os.fstat(fd))
            token = file.read(MAX_TOKEN + 2).removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} can't be read: {error}; remove it, and a new one is made at the next start"
        ) from None
    if not is_token(token):
        raise ConfigError(
            f"{path} holds no token: expected {MIN_TOKEN} to {MAX_TOKEN} letters, digits and signs in one line; "
            "remove it, and a new one is made at the next start"
        )
    return token


def _make_token(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(fd)
        os.link(beside, path)  # fails when another was faster
        log.info("event=token_made path=%s", path)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"{path} can't be made: {error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _check_is_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path} is no file of ours; remove it, and a new one is made at the next start")
    if found.st_mode & 0o077:
        raise ConfigError(
            f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}), who may know it by now: "
            "remove it, and a new one is made at the next start; or, if you trust them: chmod 600"
        )


def _operator(name: str) -> str:
    if not is_operator(name):
        raise BadRequest(f"operator is {name!r}: expected a name of 1 to {MAX_OPERATOR} printable characters")
    return name
