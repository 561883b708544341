"""The page for everybody: axe-core, a phone, the keyboard, and text of users that stays text."""

import pytest
from playwright.sync_api import expect

from control.render import duration

from .browser import PHONE
from .site import MARKUP, VIEWS, assert_no_markup

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

REACHABLE = "a[href], button:not([disabled]), input:not([hidden]), select, textarea, summary"


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_is_for_everybody_on_a_desk_and_on_a_phone(site, visiting, view):
    with visiting() as visit:
        main = visit.show(view)
        if view == "classify":
            main.locator("input[type=file]").set_input_files(site.folder / "one.png")
            expect(main.locator(".answered")).to_be_visible()
        assert visit.violations() == []
        visit.page.set_viewport_size(PHONE)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert visit.violations() == []
        assert_all_is_reached_by_tab(visit.page)


def assert_all_is_reached_by_tab(page):
    wanted = page.locator(REACHABLE).evaluate_all("all => all.filter(e => e.checkVisibility()).length")
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(reached) == wanted


def test_text_of_users_stays_text_everywhere(site, visiting):
    with visiting() as visit:
        main = visit.show("classify")
        main.locator("input[type=file]").set_input_files(
            {"name": f"{MARKUP}.png", "mimeType": "image/png", "buffer": (site.folder / "one.png").read_bytes()}
        )
        expect(main.locator(".file")).to_have_text(f"{MARKUP}.png")
        expect(main.locator(".answered")).to_be_visible()
        assert_no_markup(visit)
        visit.log_in(site.token, operator=MARKUP)
        expect(visit.page.locator("#who")).to_contain_text(MARKUP)
        for view in VIEWS:
            visit.show(view)
            assert_no_markup(visit)


def test_durations_are_written_as_the_command_line_writes_them(visiting):
    seconds = [0, 0.314, 9.99, 10, 59.94, 60, 124.4, 3599, 3600, 11_100, 86_399, 86_400, 525_600]
    with visiting() as visit:
        visit.show("pool")
        script = "all => import('/static/format.js').then(({duration}) => all.map(duration))"
        assert visit.page.evaluate(script, seconds) == [duration(one) for one in seconds]
