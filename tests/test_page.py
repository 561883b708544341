"""The Web page in a real browser against a real pool: broker, workers, controller, gateway, weights. The tests share one pool;
each looks up which version is stable, so their order does not matter."""

from hotpool import torchvision_ops  # noqa: F401, I001  must come before torchvision

import os
import re
import signal
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from bench.callers import Callers
from control.render import duration
from gateway.failures import UnsupportedType
from hotpool import Client
from hotpool.errors import BY_CODE
from hotpool.locks import holder

from .browser import PHONE, Visit, chromium, visit
from .command_line import SMALL_NETWORK, CommandLine
from .pool import eventually, short_home
from .small_versions import CLASSES, make_tensors, save

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

CHECKED_S = 90.0  # a version is checked by a process that gives way to all others
VIEWS = ("classify", "pool", "rollouts", "versions")
MARKUP = "<img src=x onerror=alert(1)>"
LABELS = ("circle", "square", MARKUP, "<b>star</b>", "ring")
# Gates that have enough evidence within seconds; times are not judged, the machine has other work.
CONFIG = """
[pool]
workers = 2
allow_oversubscription = true
[rollout]
steps = "shadow,25"
step_min_s = 1.0
step_max_s = 300.0
bake_s = 1.0
watch_s = 0.0
[gates]
min_replies = 30
drift_min_replies = 50
latency_ratio = 50.0
tail_ratio = 50.0
collapse_margin = 0.9
[gateway]
port = {port}
"""


@dataclass
class Site:
    """A running pool with its page."""

    hotpool: CommandLine
    url: str
    folder: Path  # of weights and pictures

    @property
    def token(self) -> str:
        return (self.hotpool.home.root / "admin-token").read_text().strip()

    def stable(self) -> Any:
        return self.hotpool.json("status")["stable"]["name"]

    def until_idle(self) -> None:
        eventually(
            lambda: self.hotpool.json("status")["rollout"] is None, "no rollout is under way", patience_s=CHECKED_S
        )


def free_port():
    """Fixed in the configuration, so that a gateway that is started again is found where it was."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_files(folder):
    """Weights of two versions that name the same classes, labels, and pictures."""
    assert len(LABELS) == CLASSES
    tensors = make_tensors(1)
    save(tensors, folder / "v1.pth")
    save({**tensors, "fc.weight": tensors["fc.weight"] * 1.001}, folder / "v2.pth")
    (folder / "labels.txt").write_text("\n".join(LABELS))
    (folder / "bad.png").write_bytes(b"this is no picture")
    (folder / "bad.pth").write_bytes(b"these are no weights")
    random = np.random.default_rng(7)
    for name in ("one.png", "two.jpg"):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / name)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("page"), free_port()
    make_files(folder)
    (folder / "pool.toml").write_text(CONFIG.format(port=port))
    with short_home() as home:
        hotpool = CommandLine(home, folder / "pool.toml")
        options = ("--labels", folder / "labels.txt", *SMALL_NETWORK)
        hotpool("versions", "add", folder / "v1.pth", "--name", "v1", *options)
        second = hotpool.start("versions", "add", folder / "v2.pth", "--name", "v2", *options)
        said = hotpool("up", "--detach").stdout
        try:
            assert f"the Web page is at http://127.0.0.1:{port}" in said
            _, errors = second.communicate()
            assert second.returncode == 0, errors
            yield Site(hotpool, f"http://127.0.0.1:{port}", folder)
        finally:
            hotpool("down")


@pytest.fixture(scope="module")
def browser():
    with chromium() as context:
        yield context


@pytest.fixture
def visiting(site, browser):
    return partial(visit, browser, site.url)


@contextmanager
def traffic(site):
    """Pictures that all differ, at a rate that leaves the pool time for more."""
    random = np.random.default_rng(11)

    def ask(n):
        sleep(0.01)  # paces the callers, waits for nothing
        return random.integers(0, 256, (8, 8, 3), np.uint8), None

    with (
        Client(site.hotpool.home.endpoint("clients")) as client,
        Callers(client, 2, ask, lambda n, remembered, prediction: None) as callers,
    ):
        yield callers
    assert callers.history.errors == []
    assert callers.history.lost == 0


# ---- classify


def test_pictures_are_classified_each_with_its_own_card(site, visiting):
    with Client(site.hotpool.home.endpoint("clients")) as client:
        expected = client.classify((site.folder / "one.png").read_bytes(), top=3)
    with visiting() as visit:
        main = visit.show("classify")
        main.locator("input[type=file]").set_input_files([site.folder / "one.png", site.folder / "two.jpg"])
        cards = main.locator("li.picture.answered")
        expect(cards).to_have_count(2)
        card = cards.filter(has_text="one.png")
        assert card.locator(".label").all_inner_texts() == [one.label for one in expected.classes]
        shown = [float(text.strip("<> %")) / 100 for text in card.locator(".share").all_inner_texts()]
        assert shown == pytest.approx([one.probability for one in expected.classes], abs=0.001)
        bars = [float(value) for value in card.locator(".scores progress").evaluate_all("all => all.map(e => e.value)")]
        assert bars == pytest.approx([one.probability for one in expected.classes], abs=1e-6)
        assert expected.version in card.locator(".by").inner_text()
        assert re.search(r"\d ms, computing \d.* ms", card.locator(".by").inner_text())
        assert card.locator(".preview img").evaluate("image => image.naturalWidth") == 48


def test_what_is_no_picture_is_explained_and_the_others_are_answered(site, visiting):
    with visiting() as visit:
        visit.may_fail = {"/predict"}
        main = visit.show("classify")
        main.locator("input[type=file]").set_input_files([site.folder / "bad.png", site.folder / "one.png"])
        expect(main.locator("li.picture.answered")).to_have_count(1)
        card = main.locator("li.picture.failed")
        expect(card).to_contain_text("This picture can't be read")
        expect(card.get_by_role("button", name="Try again")).to_be_visible()


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_picture_can_be_dropped_and_pasted(site, visiting, how):
    picture = list((site.folder / "one.png").read_bytes())
    events = {
        "drop": "main.querySelector('.dropzone').dispatchEvent(new DragEvent('drop', {dataTransfer: held, bubbles: true}))",
        "paste": "dispatchEvent(new ClipboardEvent('paste', {clipboardData: held}))",
    }
    with visiting() as visit:
        main = visit.show({"drop": "classify", "paste": "pool"}[how])
        visit.page.evaluate(
            f"""bytes => {{
                const held = new DataTransfer();
                held.items.add(new File([new Uint8Array(bytes)], "held.png", {{type: "image/png"}}));
                const main = document.querySelector("main");
                {events[how]};
            }}""",
            picture,
        )
        expect(main.locator("li.picture.answered")).to_contain_text("held.png")


# ---- log in


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
        visit.fill_in_login(site.token)
        expect(visit.dialog()).to_contain_text("is checked in a process of its own")
        expect(visit.dialog()).to_contain_text("Ordered by Ada")
        visit.page.keyboard.press("Escape")
        expect(visit.dialog()).to_have_count(0)
    assert site.hotpool.json("status")["rollout"] is None


# ---- rollouts

# What each worker shows, each time that it changes: [["v1", "v1"], ["v2", "v1"], ...], and the same of stages and gates.
RECORD = """
    window.seen = {tiles: [], stages: [], evidence: []};
    const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent);
    const note = (name, value) => {
        if (JSON.stringify(value) !== JSON.stringify(window.seen[name].at(-1))) window.seen[name].push(value);
    };
    new MutationObserver(() => {
        note("tiles", texts(".tile .tile-version > .version:first-child"));
        note("stages", texts(".stage.now"));
        note("evidence", [...document.querySelectorAll(".gate progress")].map((e) => e.value));
    }).observe(document.querySelector("main"), {subtree: true, childList: true, characterData: true, attributes: true});
"""


def test_a_rollout_is_seen_to_travel_through_the_tiles_to_its_end_and_is_undone(site, visiting):
    site.until_idle()
    old = site.stable()
    new = {"v1": "v2", "v2": "v1"}[old]
    with visiting() as visit:
        visit.show("versions")
        visit.log_in(site.token)
        visit.button(f"Roll out {new}").click()
        expect(visit.dialog()).to_contain_text(f"compared with {old} on copies of requests, then on 25 percent")
        visit.page.evaluate(RECORD)
        visit.confirm("Start", f"better {MARKUP}")
        watch(site, visit, new)
        seen = visit.page.evaluate("window.seen")
        print(seen)
        assert is_part_of([[old, old], [new, old], [new, new]], seen["tiles"])
        assert [old, new] not in seen["tiles"], "the canary goes first"
        stages = [text.removeprefix("now: ") for group in seen["stages"] for text in group]
        assert is_part_of(["check", "shadow", "25 %", "bake"], stages)
        assert any(0 < value < 1 for values in seen["evidence"] for value in values), "evidence is seen to fill up"
        read_history(visit, new)
        undo(visit, old)
    assert site.stable() == old


def watch(site, visit, new):
    """To the end. Nobody asks the pool anything while the version is checked: that would only make it last."""
    card = visit.page.locator(".rollout-card")
    expect(card).to_contain_text(f"Ordered by Ada: “better {MARKUP}”")
    expect(card.locator(".stage.now")).to_contain_text("shadow", timeout=1000 * CHECKED_S)
    with traffic(site):
        expect(card.locator(".stage.now")).to_contain_text("25 %", timeout=1000 * CHECKED_S)
        expect(card).to_contain_text("Share asked for")
        expect(card).to_contain_text(re.compile(r"Share measured since counting began\d+\.\d % of \d+"))
        ended = visit.page.locator(".last-rollout")
        expect(ended).to_contain_text(f"succeeded: {new} is stable", timeout=1000 * CHECKED_S)


# A worker of a pool that is still, as the page would see it in the middle of its step.
IN_ITS_STEP = """async () => {
    const {state, changed} = await import("/static/state.js");
    const [worker] = state.status.workers;
    const step = {worker: worker.worker, goal: "b".repeat(64)};
    const rollout = {number: 99, phase: "rolling", kind: "start", stable: worker.digest, stable_name: worker.version,
        target: step.goal, target_name: "next", workers: [worker.worker], settings: {steps: [], strategy: "drain"},
        analysis: {step: -1}, steps: [step], operator: "", reason: "", created_ts: new Date().toISOString(), ended_ts: ""};
    state.newest = {rollout, message: "", workers: [], verdicts: [], share: null, counts: null};
    worker.state = "loading";
    changed();
    await new Promise(requestAnimationFrame);
    const tile = document.querySelector(".tile");
    const text = (selector) => tile.querySelector(selector).innerText;
    return [tile.classList.contains("moving"), text(".state"), text(".tile-version")];
}"""


def test_a_worker_in_its_step_shows_what_it_does_from_where_and_to_where(site, visiting):
    site.until_idle()
    with visiting() as visit:
        visit.show("pool")
        expect(visit.page.locator(".state.good")).to_have_count(2)
        is_moving, state, versions = visit.page.evaluate(IN_ITS_STEP)
        assert (is_moving, state, versions.split()) == (True, "↻ loading", [site.stable(), "→", "next"])


def test_the_share_asked_for_and_the_one_measured_stand_side_by_side_in_every_phase(visiting):
    """What the controller says is shown, whatever phase it says it of."""
    arms = {"stable": {"routed": 236}, "target": {"routed": 576}}
    sights = [
        sight(phase, {"asked": asked, "measured": measured}, {**arms, "pairs": 12} if measured else None)
        for phase, asked, measured in (("rolling", 50, 70.94), ("baking", 100, 70.94), ("analyzing", 0, None))
    ]
    script = """sights => import("/static/rollout_card.js").then(({underWay}) =>
        sights.map((sight) => underWay(sight).querySelector(".shares")?.textContent ?? ""))"""
    with visiting() as visit:
        visit.show("pool")
        shown = visit.page.evaluate(script, [*sights, sight("rolling", None, None)])
    measured = "Share measured since counting began70.9 % of 812"
    assert shown == [
        f"Share asked for50.0 %{measured}",
        f"Share asked for100.0 %{measured}",
        "Share asked for0.0 %Share measured since counting beganno requests yetShadow: copies compared0",
        "",
    ]


def sight(phase, share, counts):
    """As the gateway tells it of a rollout in its first step, a shadow."""
    rollout = {
        "number": 9, "phase": phase, "paused": False, "kind": "start", "stable": "a" * 64, "stable_name": "v1",
        "target": "b" * 64, "target_name": "v2", "workers": ["worker-0"], "analysis": {"step": 0}, "steps": [],
        "settings": {"steps": ["shadow", "25"], "strategy": "drain", "canary_workers": 1}, "operator": "Ada", "reason": "",
        "created_ts": "2026-11-23T10:00:00+00:00", "ended_ts": "", "abort": "",
    }  # fmt: skip
    return {"rollout": rollout, "message": "", "workers": [], "verdicts": [], "share": share, "counts": counts}


def is_part_of(wanted, seen):
    """In this order, whatever lies between."""
    rest = iter(seen)
    return all(any(one == each for each in rest) for one in wanted)


def read_history(visit, new):
    visit.page.get_by_role("link", name="Rollouts").click()
    row = visit.page.locator(".history tbody tr").first
    expect(row).to_contain_text(f"Ada “better {MARKUP}”")
    expect(row).to_contain_text("succeeded")
    expect(row.locator(".took")).to_have_text(re.compile(r"^\d+(\.\d+)? (s|min)"))
    with visit.page.context.expect_page() as opened:
        row.get_by_role("link", name="Report").click()
    opened.value.wait_for_load_state()
    report = Visit(opened.value, visit.url)
    report.page.reload()  # now that all that it complains of is heard
    expect(report.page.locator("h1")).to_contain_text(new)
    report.check()
    report.page.close()


def undo(visit, old):
    visit.button("Undo the last").click()
    expect(visit.dialog()).to_contain_text(f"to {old}, the stable version before it")
    visit.confirm("Undo", "it was only a test")
    expect(visit.page.locator(".last-rollout")).to_contain_text(
        f"succeeded: {old} is stable again", timeout=1000 * CHECKED_S
    )


def test_a_rollout_is_paused_resumed_promoted_and_aborted(site, visiting):
    site.until_idle()
    old = site.stable()
    with visiting() as visit:
        visit.show("rollouts")
        visit.log_in(site.token, operator=f"Eve {MARKUP}")
        visit.button("Start a rollout").click()
        expect(visit.dialog()).to_contain_text("25 percent")
        visit.confirm("Start")
        card = visit.page.locator(".rollout-card")
        expect(card.locator(".stage.now")).to_contain_text("shadow", timeout=1000 * CHECKED_S)
        for order, sentence, chip in (
            ("Pause", "The rollout holds where it is", "paused"),
            ("Resume", "goes on from where it was held", "analyzing"),
            ("Promote", "leaves the step shadow and goes on to the next step, 25 %", "analyzing"),
        ):
            visit.button(f"{order}…").click()
            expect(visit.dialog()).to_contain_text(sentence)
            visit.confirm(order, "a test")
            expect(card.locator(".chip")).to_contain_text(chip)
        for scheme in ("light", "dark"):
            visit.page.emulate_media(color_scheme=scheme)
            assert visit.violations() == []
        expect(card.locator(".stage.now")).to_contain_text("25 %")
        visit.button("Abort…").click()
        expect(visit.dialog()).to_contain_text(f"Every worker goes back to {old}")
        visit.confirm("Abort", MARKUP)
        expect(visit.page.locator(".last-rollout .chip")).to_contain_text("rolled back")
        expect(visit.page.locator(".tile .tile-version")).to_have_text([old, old])
        visit.page.get_by_role("link", name="Rollouts").click()
        row = visit.page.locator(".history tbody tr").first
        expect(row).to_contain_text(f"Eve {MARKUP}")
        expect(row.locator(".ending")).to_contain_text(MARKUP)
        assert_no_markup(visit)
    site.until_idle()
    assert site.stable() == old


# ---- versions


def test_a_bad_upload_is_explained_and_a_good_one_added_and_removed(site, visiting):
    with visiting() as visit:
        main = visit.show("versions")
        visit.log_in(site.token)
        form = main.locator("form.upload")
        form.get_by_label("Weights file").set_input_files(site.folder / "bad.pth")
        form.get_by_label("Name").fill("v9")
        form.get_by_role("button", name="Upload and check").click()
        expect(main.locator(".job.failed")).to_contain_text("It was not added", timeout=1000 * CHECKED_S)
        expect(main.locator(".job.failed")).to_contain_text("bad.pth")
        print(main.locator(".job.failed").inner_text())
        fill_in(form, site)
        form.get_by_role("button", name="Upload and check").click()
        expect(main.locator(".job.checking progress")).to_be_visible()
        expect(main.locator(".job.added")).to_contain_text("added as v3", timeout=1000 * CHECKED_S)
        card = main.locator(".version-card", has_text="v3")
        expect(card).to_contain_text("shufflenet_v2_x0_5, 5 classes")
        expect(card).to_contain_text("by Ada")
        visit.button("Remove v3").click()
        expect(visit.dialog()).to_contain_text("deleted from the store for good")
        visit.confirm("Remove", "never served")
        expect(card).to_have_count(0)
    assert [one["name"] for one in site.hotpool.json("versions", "list")] == ["v1", "v2"]


def fill_in(form, site):
    """What is typed stays while the list above is brought up to date."""
    form.get_by_label("Weights file").set_input_files(site.folder / "v1.pth")
    form.get_by_label("Name").fill("v3")
    form.get_by_label("Architecture").fill("shufflenet_v2_x0_5")
    form.get_by_label("Labels").fill("\n".join(LABELS))
    form.get_by_label("Why").fill("the same in larger")


def test_each_version_tells_what_it_is_and_how_it_is_used(site, visiting):
    with visiting() as visit:
        main = visit.show("versions")
        for stored in site.hotpool.json("versions", "list"):
            card = main.locator(".version-card").filter(has=visit.page.get_by_role("heading", name=stored["name"]))
            for text in (
                stored["source"],
                stored["digest"][:12],
                stored["precision"],
                stored["added_by"],
                stored["use"],
            ):
                expect(card).to_contain_text(text)


# ---- when something is away


def test_a_broker_that_hangs_is_seen_and_so_is_its_return(site, visiting):
    broker = holder(site.hotpool.home.lock("broker"))
    assert broker
    with visiting() as visit:
        visit.show("pool")
        os.kill(broker, signal.SIGSTOP)
        try:
            expect(visit.page.locator("#strip")).to_contain_text("Not live. No broker answered")
        finally:
            os.kill(broker, signal.SIGCONT)
        expect(visit.page.locator(".live.on")).to_be_visible()
        expect(visit.page.locator(".state.good")).to_have_count(2)


def test_a_pool_that_goes_and_comes_back_is_seen(site, visiting):
    with visiting() as visit:
        visit.may_fail = {"/api/events", "/predict", "/api/versions", "/api/rollouts", "/api/status"}
        main = visit.show("pool")
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


# ---- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_on_any_view(site, visiting, view, scheme):
    with visiting(color_scheme=scheme) as visit:
        main = visit.show(view)
        if view == "classify":
            main.locator("input[type=file]").set_input_files(site.folder / "one.png")
            expect(main.locator(".answered")).to_be_visible()
        assert visit.violations() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_dialogs(site, visiting, scheme):
    site.until_idle()
    with visiting(color_scheme=scheme) as visit:
        visit.show("rollouts")
        visit.button("Start a rollout").click()
        expect(visit.dialog()).to_be_visible()
        assert visit.violations() == []
        visit.fill_in_login(site.token)
        expect(visit.dialog()).to_contain_text("is checked in a process of its own")
        assert visit.violations() == []


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_phone_and_each_thing_can_be_reached_by_tab(site, visiting, view):
    with visiting() as visit:
        visit.page.set_viewport_size(PHONE)
        visit.show(view)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        reachable = "a[href], button:not([disabled]), input:not([hidden]), select, textarea, summary"
        wanted = visit.page.locator(reachable).evaluate_all("all => all.filter(e => e.checkVisibility()).length")
        visit.page.locator("body").evaluate("body => document.activeElement.blur()")
        reached = set()
        for _ in range(wanted):
            visit.page.keyboard.press("Tab")
            reached.add(visit.page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        assert len(reached) == wanted


@pytest.mark.parametrize(("wish", "animation"), [("reduce", "none"), ("no-preference", "pulse")])
def test_who_wants_no_motion_gets_none(visiting, wish, animation):
    with visiting(reduced_motion=wish) as visit:
        visit.show("pool")
        tile = visit.page.locator(".tile").first
        seen = "tile => (tile.classList.add('moving'), getComputedStyle(tile, '::before').animationName)"
        assert tile.evaluate(seen) == animation


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


def assert_no_markup(visit):
    """A picture that does not exist would be asked for: the policy does not forbid that."""
    assert visit.page.locator("img[src=x], main b").count() == 0


# ---- the words


def test_durations_are_written_as_the_command_line_writes_them(visiting):
    seconds = [0, 0.314, 9.99, 10, 59.94, 60, 124.4, 3599, 3600, 11_100, 86_399, 86_400, 525_600]
    with visiting() as visit:
        visit.show("pool")
        script = "all => import('/static/format.js').then(({duration}) => all.map(duration))"
        assert visit.page.evaluate(script, seconds) == [duration(one) for one in seconds]


def test_each_trouble_with_a_picture_has_clear_words(visiting):
    troubles = {
        "bad_image": "can't be read",
        "too_large": "too large",
        "unsupported_type": "This is not a picture",
        "queue_full": "The queue is full",
        "no_ready_worker": "No worker is ready",
        "broker_unreachable": "The pool does not answer",
        "deadline_exceeded": "No answer in time",
    }
    assert troubles.keys() <= BY_CODE.keys() | {UnsupportedType.code}
    script = """codes => import('/static/words.js').then(({pictureTrouble}) => codes.map((code) =>
        pictureTrouble({code, status: 500, message: "why it is so", retryAfter: 2}, null).join(": ")))"""
    with visiting() as visit:
        visit.show("pool")
        for said, expected in zip(visit.page.evaluate(script, list(troubles)), troubles.values(), strict=True):
            assert expected in said
