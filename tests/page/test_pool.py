"""Pool: what the workers do, and what is seen when something is away."""

import os
import re
import signal

import pytest
from playwright.sync_api import expect

from hotpool import Client
from hotpool.locks import holder
from tests.pool import eventually

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]


def test_the_tiles_say_what_the_command_line_says(site, visiting):
    site.until_idle()
    with Client(site.hotpool.home.endpoint("clients")) as client:
        client.classify((site.folder / "one.png").read_bytes())
    with visiting() as visit:
        main = visit.show("pool")

        def is_the_same():
            told, shown = site.hotpool.json("status"), main.evaluate(TILES)
            print(shown)
            return shown == {one["worker"]: figures(one) for one in told["workers"]}

        eventually(is_the_same, "each tile has the figures of its worker")
        assert sum(int(one["served"]) for one in main.evaluate(TILES).values()) > 0


# By worker, what its tile shows.
TILES = """main => Object.fromEntries([...main.querySelectorAll(".tile")].map((tile) => {
    const text = (element) => element.innerText;
    const names = [...tile.querySelectorAll("dt")].map(text);
    const values = [...tile.querySelectorAll("dd")].map(text);
    const figures = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    return [text(tile.querySelector("h3")), {version: text(tile.querySelector(".version")), ...figures}];
}))"""


def figures(worker):
    """As the page writes them."""
    return {
        "version": worker["version"],
        "cores": ", ".join(map(str, worker["cores"])),
        "in flight": str(worker["in_flight"]),
        "served": f"{worker['served']:,}".replace(",", "\u202f"),
        "memory": f"{worker['private_bytes'] / 1024**2:.1f} MiB",
        "restarts": str(sum(worker["restarts"].values())),
    }


def test_a_broker_that_hangs_is_seen_and_so_is_its_return(site, visiting):
    broker = holder(site.hotpool.home.lock("broker"))
    assert broker
    with visiting() as visit:
        visit.show("pool")
        os.kill(broker, signal.SIGSTOP)
        try:
            strip = visit.page.locator("#strip")
            expect(strip).to_contain_text("Not live. No broker answered")
            assert visit.violations() == []
            expect(strip).to_contain_text(re.compile(r"What you see is ([3-9]|\d\d) s old"))
        finally:
            os.kill(broker, signal.SIGCONT)
        expect(visit.page.locator(".live.on")).to_be_visible()
        expect(visit.page.locator(".state.good")).to_have_count(2)


def test_a_pool_that_goes_and_comes_back_is_seen(site, visiting):
    with visiting() as visit:
        visit.may_fail = {"/api/events", "/predict", "/api/versions", "/api/rollouts", "/api/status"}
        main = visit.show("pool")
        visit.page.wait_for_function(f"async () => ({FIRST_SAMPLE}) !== null")
        first = visit.page.evaluate(f"async () => {FIRST_SAMPLE}")
        site.hotpool("down")
        try:
            expect(visit.page.locator("#strip")).to_contain_text("Not live.")
            expect(visit.page.locator(".live.off")).to_be_visible()
            visit.page.get_by_role("link", name="Classify").click()
            main.locator("input[type=file]").set_input_files(site.folder / "one.png")
            expect(main.locator(".picture.failed")).to_contain_text("No connection")
        finally:
            site.hotpool("up", "--detach")
        expect(visit.page.locator(".live.on")).to_be_visible()
        expect(visit.page.locator("#strip")).to_be_empty()
        main.get_by_role("button", name="Try again").click()
        expect(main.locator(".picture.answered")).to_have_count(1)
        visit.page.get_by_role("link", name="Pool", exact=True).click()
        expect(main.locator(".state.good")).to_have_count(2)
        assert visit.page.evaluate(f"async () => {FIRST_SAMPLE}") == first, "the charts keep what was before"


FIRST_SAMPLE = "(await import('/static/state.js')).state.samples[0]?.at ?? null"


def test_a_list_that_could_not_be_had_is_asked_for_again_after_a_while_and_it_alone(visiting):
    with visiting() as visit:
        visit.may_fail = {"/api/rollouts"}
        visit.page.route("**/api/rollouts", lambda route: route.abort())
        main = visit.show("rollouts")
        visit.page.wait_for_function(ASKED, arg=["/api/rollouts", 2])  # at the start, and at the first news
        visit.page.wait_for_function(ASKED, arg=["/api/versions", 2])
        visit.page.evaluate("const real = Date.now; Date.now = () => real() + 6000")
        visit.page.wait_for_function(ASKED, arg=["/api/rollouts", 3])
        assert visit.page.evaluate(ASKED, ["/api/versions", 2])
        expect(main).to_contain_text("Asking for them")
        visit.page.unroute("**/api/rollouts")
        visit.page.evaluate("const real = Date.now; Date.now = () => real() + 6000")
        expect(main).not_to_contain_text("Asking for them")


ASKED = (
    """([path, n]) => performance.getEntriesByType("resource").filter(({name}) => name.endsWith(path)).length === n"""
)


@pytest.mark.parametrize(("wish", "animation"), [("reduce", "none"), ("no-preference", "pulse")])
def test_who_wants_no_motion_gets_none(visiting, wish, animation):
    with visiting(reduced_motion=wish) as visit:
        visit.show("pool")
        tile = visit.page.locator(".tile").first
        seen = "tile => (tile.classList.add('moving'), getComputedStyle(tile, '::before').animationName)"
        assert tile.evaluate(seen) == animation
