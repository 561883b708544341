"""A load in its thread: what is left of one that failed, and one that could not begin."""

import gc
import select
import threading
import weakref

import pytest

from hotpool.errors import BadVersion
from hotpool.messages import Load
from workers.loader import Loader

ORDER = Load("t1", "d" * 64, 1, False)


class HalfAVersion:
    pass


def fails(seen):
    """As loads do: a failure of a library becomes one in our words."""

    def load(digest, tell):
        half = HalfAVersion()
        seen.append(weakref.ref(half))
        try:
            raise ValueError("the library's words")
        except ValueError:
            raise BadVersion("ours") from None

    return load


@pytest.fixture
def ended():
    """How a load of this kind ends."""
    made = []

    def end(load):
        loader = Loader(load)
        made.append(loader)
        loader.begin(ORDER)
        while True:
            assert select.select([loader], [], [], 10)[0], "nothing was told"
            if (news := loader.news()[1]) is not None:
                return news[1]

    yield end
    for loader in made:
        loader.close()


def test_what_a_failed_load_had_in_its_hands_is_free_when_its_end_is_told(ended):
    seen = []
    gc.disable()  # it may come at any time, or not for long
    try:
        future = ended(fails(seen))
        assert str(future.exception()) == "ours"
        assert seen[0]() is None
    finally:
        gc.enable()


def test_a_load_for_which_no_thread_is_to_be_had_has_failed(ended, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    future = ended(lambda digest, tell: "loaded")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        future.result()
