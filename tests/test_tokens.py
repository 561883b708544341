"""gateway/tokens.py: what a session proves, and what it does not."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tokens import (
    MAX_OPERATOR,
    MAX_TOKEN,
    MIN_TOKEN,
    Session,
    bearer,
    is_operator,
    is_own_origin,
    is_same,
    is_token,
    read_session,
    write_session,
)

TOKEN, OTHER = "a" * 43, "b" * 43
NOW = 1_800_000_000.0


@given(operator=st.text(), left_s=st.floats(0.001, 1e6))
def test_a_session_comes_back_as_it_was_given_until_its_time_is_over(operator, left_s):
    session = Session(operator, NOW + left_s)
    cookie = write_session(session, TOKEN)
    assert read_session(cookie, TOKEN, NOW) == session
    assert read_session(cookie, TOKEN, session.until) is None


def test_a_session_of_another_token_is_none():
    assert read_session(write_session(Session("anna", NOW + 1), OTHER), TOKEN, NOW) is None


def test_a_session_that_was_changed_anywhere_is_none():
    cookie = write_session(Session("anna", NOW + 1), TOKEN)
    rng = random.Random(1)
    for at in range(len(cookie)):
        other = rng.choice([sign for sign in "abcXYZ0189-_.=" if sign != cookie[at]])
        changed = cookie[:at] + other + cookie[at + 1 :]
        assert read_session(changed, TOKEN, NOW) is None, (at, changed)
    for end in range(len(cookie)):
        assert read_session(cookie[:end], TOKEN, NOW) is None


@given(st.text())
def test_any_text_is_no_session(text):
    assert read_session(text, TOKEN, NOW) is None


@given(st.text(), st.text())
def test_two_texts_are_the_same_only_if_they_are_equal(one, other):
    assert is_same(one, other) == (one == other)
    assert is_same(one, one)


def test_two_texts_that_utf_8_can_not_write_are_compared_too():
    assert is_same("\ud800", "\ud800")
    assert not is_same("\ud800", "?")


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"), ("bearer abc", "abc"), ("BEARER  abc ", "abc"), ("Bearer", ""), ("Basic abc", None),
        ("", None), (None, None), ("abc", None),
    ],
)  # fmt: skip
def test_a_bearer_header_holds_its_token(header, token):
    assert bearer(header) == token


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("https://pool.example", "pool.example", True),
        ("http://POOL.example", "pool.EXAMPLE", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://127.0.0.1:8081", "127.0.0.1:8080", False),
        ("http://pool.example.evil.example", "pool.example", False),
        ("http://evil.example", "127.0.0.1:8080", False),
        ("http://user@127.0.0.1:8080", "127.0.0.1:8080", False),
        ("ftp://127.0.0.1:8080", "127.0.0.1:8080", False),
        ("http://", "", False), ("null", "null", False), ("", "", False), (None, "127.0.0.1:8080", False),
        ("http://127.0.0.1:8080", None, False), ("http://[x", "[x", True),
    ],
)  # fmt: skip
def test_an_origin_is_ours_if_it_names_the_host_that_was_asked(origin, host, is_own):
    assert is_own_origin(origin, host) is is_own


@pytest.mark.parametrize("name", ["anna", "Anna Müller", "a" * MAX_OPERATOR, "日本"])
def test_names_of_operators(name):
    assert is_operator(name)


@pytest.mark.parametrize(
    "name", ["", " ", " anna", "a\nb", "a\x00", "a" * (MAX_OPERATOR + 1), "\ud800", "a\r\nSet-Cookie: b"]
)
def test_what_is_no_name_of_an_operator(name):
    assert not is_operator(name)


def test_a_token_can_travel_in_a_header():
    assert is_token("x" * MIN_TOKEN)
    assert is_token("x" * MAX_TOKEN)
    for text in ("", "x" * (MIN_TOKEN - 1), "x" * (MAX_TOKEN + 1), "x" * 20 + "\n", "x y" * 10, "ä" * 20):
        assert not is_token(text)
