"""What the page says when its pool can't answer: a real broker and gateway, but no worker and no controller."""

from functools import partial

import pytest
from playwright.sync_api import expect

from tests.gateway_process import add_noop_versions, running_site
from tests.pool import eventually

from .browser import visit

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

MOST = 200  # as in classify.js
PICTURE = b"\x89PNG"  # nobody looks into it
NO_CONTROLLER = {"/api/versions", "/api/rollouts"}


@pytest.fixture(scope="module")
def bare():
    """Its queue has room for one request."""
    with running_site(0, "[dispatch]\nqueue_max_requests = 1\n") as (pool, gateway):
        add_noop_versions(pool.home, "v1")
        yield pool, gateway


@pytest.fixture
def visiting(bare, browser):
    return partial(visit, browser, bare[1].url)


def choose(main, n):
    one = {"mimeType": "image/png", "buffer": PICTURE}
    main.locator("input[type=file]").set_input_files([{"name": f"{i}.png", **one} for i in range(n)])


def hurry(route):
    """The page gives a picture 20 s."""
    route.continue_(headers={**route.request.headers, "x-request-timeout-seconds": "1"})


def test_a_full_queue_and_a_pool_without_workers_are_told_in_clear_words(bare, visiting):
    pool, _ = bare
    with visiting() as visit, pool.client() as other:
        visit.may_fail = {"/predict", *NO_CONTROLLER}
        visit.page.route("**/predict*", hurry)
        first = other.submit(PICTURE, timeout_s=60)
        eventually(lambda: pool.report().queue.requests == 1, "the queue is full")
        main = visit.show("classify")
        expect(main).to_contain_text("No worker is ready: pictures wait until one is")
        choose(main, 1)
        card = main.locator("li.picture.failed")
        expect(card).to_contain_text("The queue is full")
        expect(card).to_contain_text("Try again in a second")
        first.cancel()
        eventually(lambda: pool.report().queue.requests == 0, "the queue has room")
        card.get_by_role("button", name="Try again").click()
        expect(card).to_contain_text("No worker is ready")
        expect(card).to_contain_text("none of its workers can answer now")
        assert visit.violations() == []


def test_what_waits_is_seen_in_the_queue_and_cleared_pictures_leave_it(bare, visiting):
    pool, _ = bare
    before = n_cancelled(pool)
    with visiting() as visit:
        visit.may_fail = NO_CONTROLLER
        main = visit.show("classify")
        choose(main, 1)
        visit.page.get_by_role("link", name="Pool", exact=True).click()
        expect(main.locator(".facts")).to_contain_text("Queue1 of 1")
        queue = main.get_by_role("img", name="Requests in the queue, over the last 15 minutes. Now: 1")
        expect(queue).to_be_visible()
        visit.page.get_by_role("link", name="Classify").click()
        visit.button("Clear").click()
        expect(main.locator("li.picture")).to_have_count(0)
        eventually(lambda: n_cancelled(pool) == before + 1, "the broker forgets the request")


def n_cancelled(pool):
    requests = next(family for family in pool.report().metrics if family.name == "hotpool_requests_total")
    return sum(sample.value for sample in requests.samples if sample.labels["outcome"] == "cancelled")


def test_pictures_for_which_there_is_no_room_are_counted(visiting):
    with visiting() as visit:
        visit.may_fail = NO_CONTROLLER
        visit.page.route("**/predict*", lambda route: None)
        main = visit.show("classify")
        choose(main, MOST + 3)
        expect(main).to_contain_text(f"3 pictures were left out: the page holds {MOST}.")
        expect(main.locator("li.picture")).to_have_count(MOST)
        visit.button("Clear").click()
        expect(main.locator("li.picture")).to_have_count(0)
        expect(main).not_to_contain_text("left out")
