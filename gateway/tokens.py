"""Pure: the secret that allows changes, and the session that a browser holds in its place."""

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass
from hashlib import sha256

SESSION_S = 12 * 3600
MIN_TOKEN, MAX_TOKEN = 16, 512  # characters
MAX_OPERATOR = 64
_PURPOSE = b"hotpool session 1"  # another form of the cookie would be another purpose


@dataclass(frozen=True, slots=True)
class Session:
    """Who logged in, and until when that holds: seconds since 1970, since a session outlives the process that gave it."""

    operator: str
    until: float


def is_token(text: str) -> bool:
    """Whether it can travel in a header."""
    return MIN_TOKEN <= len(text) <= MAX_TOKEN and text.isascii() and text.isprintable() and " " not in text


def is_same(given: str, token: str) -> bool:
    """In a time that depends on neither."""
    return hmac.compare_digest(_digest(given), _digest(token))


def is_operator(name: str) -> bool:
    """Whether the journal can keep it."""
    return 1 <= len(name) <= MAX_OPERATOR and name.isprintable() and name.strip() == name


def bearer(header: str | None) -> str | None:
    """The token in an Authorization header, if it holds one."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def write_session(session: Session, token: str) -> str:
    """The cookie's value."""
    body = json.dumps([session.operator, session.until]).encode()
    return f"{urlsafe_b64encode(body).decode()}.{_sign(body, token)}"


def read_session(cookie: str, token: str, now: float) -> Session | None:
    """None: it was not made with this token, was changed, or has run out."""
    encoded, _, signature = cookie.partition(".")
    try:
        body = urlsafe_b64decode(encoded.encode())
    except (ValueError, NotBase64):
        return None
    if not is_same(signature, _sign(body, token)):
        return None
    session = Session(*json.loads(body))
    return session if now < session.until else None


def is_own_origin(origin: str | None, host: str | None) -> bool:
    """Whether a browser's Origin header names the site that the request went to. Without one: no."""
    scheme, _, named = (origin or "").lower().partition("://")
    return scheme in ("http", "https") and bool(named) and named == (host or "").lower()


def _sign(body: bytes, token: str) -> str:
    key = hmac.digest(token.encode(), _PURPOSE, "sha256")
    return hmac.digest(key, body, "sha256").hex()


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
