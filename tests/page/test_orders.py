"""Logging in, and what is asked before anything changes."""

import pytest
from playwright.sync_api import expect

from tests.pool import eventually

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]


def test_a_wrong_token_is_refused_and_the_right_one_accepted_by_keyboard_alone(site, visiting):
    with visiting() as visit:
        visit.may_fail = {"/api/session"}
        visit.show("pool")
        press, write = visit.page.keyboard.press, visit.page.keyboard.type
        press("Tab")
        expect(visit.page.get_by_text("Skip to the content")).to_be_focused()
        visit.button("Log in").focus()
        press("Enter")
        expect(visit.dialog()).to_contain_text("admin-token")
        for key in ("not the token", "Tab", "Ada", "Enter"):
            press(key) if key in ("Tab", "Enter") else write(key)
        expect(visit.dialog().get_by_role("alert")).to_contain_text("token")
        assert visit.violations() == []
        expect(visit.button("Log out")).to_have_count(0)
        visit.dialog().get_by_label("Admin token").fill(site.token)
        press("Enter")
        expect(visit.button("Log out")).to_be_visible()
        expect(visit.page.locator("#who")).to_contain_text("Ada")
        visit.page.reload()
        expect(visit.button("Log out")).to_be_visible()
        visit.button("Log out").click()
        expect(visit.button("Log in")).to_be_visible()


def test_an_order_asks_for_the_token_first_and_escape_orders_nothing(site, visiting):
    site.until_idle()
    with visiting() as visit:
        visit.show("rollouts")
        visit.button("Start a rollout").click()
        expect(visit.dialog()).to_contain_text("Changing anything needs the admin token")
        assert visit.violations() == []
        visit.fill_in_login(site.token)
        expect(visit.dialog()).to_contain_text("is checked in a process of its own")
        expect(visit.dialog()).to_contain_text("Ordered by Ada")
        assert visit.violations() == []
        visit.page.keyboard.press("Escape")
        expect(visit.dialog()).to_have_count(0)
    assert site.is_idle()


def test_what_is_ordered_twice_while_it_is_sent_is_ordered_once(site, visiting):
    sent = []
    with visiting() as visit:
        visit.show("pool")
        visit.page.route("**/api/session", lambda route: sent.append(route) if is_order(route) else route.continue_())
        visit.button("Log in").click()
        visit.fill_in_login(site.token)
        expect(visit.dialog().get_by_role("button", name="Log in")).to_be_disabled()
        for _ in range(3):
            visit.dialog().get_by_label("Your name").press("Enter")
        sent[0].continue_()
        expect(visit.button("Log out")).to_be_visible()
        assert len(sent) == 1


def test_the_plan_is_that_of_the_last_choice_whichever_answer_comes_first(site, visiting):
    site.until_idle()
    held = []
    with visiting() as visit:
        visit.show("rollouts")
        visit.log_in(site.token)
        visit.page.route("**/api/rollouts", lambda route: held.append(route) if is_order(route) else route.continue_())
        visit.button("Start a rollout").click()
        expect(visit.dialog()).to_contain_text("Asking the controller")
        visit.dialog().get_by_label("Steps of the canary").select_option("none")
        eventually(lambda: visit.page.evaluate("true") and len(held) == 2, "the page asks for both plans")
        early, late = held
        late.continue_()
        expect(visit.dialog()).to_contain_text("Nothing compares it")
        with visit.page.expect_response(lambda answer: answer.request == early.request):
            early.continue_()
        visit.page.evaluate("new Promise(requestAnimationFrame)")
        expect(visit.dialog()).to_contain_text("Nothing compares it")


def is_order(route):
    return route.request.method == "POST"


def test_a_look_that_takes_too_long_is_given_up_and_told(site, visiting):
    with visiting() as visit:
        visit.page.add_init_script(
            "const real = AbortSignal.timeout; AbortSignal.timeout = (ms) => real.call(AbortSignal, ms / 40)"
        )
        visit.page.route("**/api/session", lambda route: None)
        visit.show("rollouts")
        visit.button("Start a rollout").click()
        expect(visit.page.locator(".notice")).to_contain_text("has not answered within 10 seconds")
        assert visit.violations() == []
