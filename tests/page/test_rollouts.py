"""A rollout as the page shows it, and the orders for it."""

import re

import pytest
from playwright.sync_api import expect

from control.gates import ARMED
from tests.pool import eventually

from .browser import Visit
from .site import CHECKED_MS, LABELLED, MARKUP, assert_no_markup, traffic

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

# What is seen, each time that it changes: of the tiles [["v1", "v1"], ["v2", "v1"], ...], likewise the stages, and how far the
# evidence of each gate has come, by its name.
RECORD = """
    window.seen = {tiles: [], stages: [], evidence: []};
    const all = (selector) => [...document.querySelectorAll(selector)];
    const texts = (selector) => all(selector).map((e) => e.textContent);
    const note = (name, value) => {
        if (JSON.stringify(value) !== JSON.stringify(window.seen[name].at(-1))) window.seen[name].push(value);
    };
    const gate = (e) => [e.querySelector(".gate-name").firstChild.data, e.querySelector("progress").value];
    new MutationObserver(() => {
        note("tiles", texts(".tile .tile-version > .version:first-child"));
        note("stages", texts(".stage.now"));
        note("evidence", Object.fromEntries(all(".gate").map(gate)));
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
        watch(site, visit, old, new)
        seen = visit.page.evaluate("window.seen")
        print(seen)
        assert is_part_of([[old, old], [new, old], [new, new]], seen["tiles"])
        assert [old, new] not in seen["tiles"], "the canary goes first"
        stages = [text.removeprefix("now: ") for group in seen["stages"] for text in group]
        assert is_part_of(["check", "shadow", "25 %", "bake"], stages)
        assert_evidence_grows(seen["evidence"])
        read_agreement(site, visit, new)
        read_history(visit, new)
        undo(visit, old)
    assert site.stable() == old


def watch(site, visit, old, new):
    """To the end. Nobody asks the pool anything while the version is checked: that would only make it last."""
    card = visit.page.locator(".rollout-card")
    expect(card).to_contain_text(f"Ordered by Ada: “better {MARKUP}”")
    expect(card.locator(".stage.now")).to_contain_text("shadow", timeout=CHECKED_MS)
    with traffic(site):
        expect(card.locator(".stage.now")).to_contain_text("25 %", timeout=CHECKED_MS)
        number = site.ask("rollouts")[-1]["number"]
        site.order(f"rollouts/{number}/pause")  # so that there is time to look
        assert visit.violations() == []
        read_share(site, visit, number)
        read_charts(visit, old, new)
        site.order(f"rollouts/{number}/resume")
        ended = visit.page.locator(".last-rollout")
        expect(ended).to_contain_text(f"succeeded: {new} is stable", timeout=CHECKED_MS)


def read_share(site, visit, number):
    """What is measured is what the evidence counts, and near what is asked for."""
    eventually(lambda: sum(routed(site, number)) >= ENOUGH, "the evidence of the share")
    target, stable = routed(site, number)
    visit.page.wait_for_function(SHOWS_AT_LEAST, arg=target + stable)
    asked, measured = visit.page.locator(".shares .meter-said").all_inner_texts()
    later_target, later_stable = routed(site, number)
    print(f"{measured} shown; of target and stable {target}, {stable} before, {later_target}, {later_stable} after")
    share, n = (float(text) for text in measured.replace("\u202f", "").split(" % of "))
    assert asked == "25.0 %"
    assert target + stable <= n <= later_target + later_stable
    assert target - 1 <= share * n / 100 <= later_target + 1
    assert share == pytest.approx(25, abs=15)


def routed(site, number):
    counts = site.ask(f"rollouts/{number}")["counts"]
    return counts["target"]["routed"], counts["stable"]["routed"]


ENOUGH = 200  # requests: then the share is within 15 points of what is asked for, but for one time in a million
SHOWS_AT_LEAST = """n => {
    const said = document.querySelectorAll(".shares .meter-said")[1].textContent;
    return Number(said.replaceAll("\u202f", "").split(" % of ")[1]) >= n;
}"""


def read_charts(visit, *names):
    """The figures of each version, a line in each chart in the version's own colour, and the same in words."""
    for name in names:
        row = visit.page.locator("table.figures tbody tr").filter(has=visit.page.get_by_role("rowheader", name=name))
        for cell, figure in zip(row.locator("td").all(), (r"[1-9].* /s", r"\d.* ms", r"\d.* ms", "none"), strict=True):
            expect(cell).to_have_text(re.compile(f"^{figure}$"))
    for chart in ("rate", "p50", "p99"):
        plot = visit.page.locator(f".chart.{chart} .plot")
        assert all(n > 0 for n in plot.evaluate(PIXELS, list(names))), f"{chart} shows lines of both versions"
        said = plot.get_attribute("aria-label")
        assert all(re.search(rf"\b{name} \d", said) for name in names), said
    expect(visit.page.locator(".chart.queue .plot")).to_have_attribute("aria-label", re.compile(r"Now: \d+$"))


# How many pixels of a chart have the colour of each version.
PIXELS = """async (plot, names) => {
    const {colourClass} = await import("/static/marks.js");
    const canvas = plot.querySelector("canvas");
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return names.map((name) => {
        const hex = getComputedStyle(plot).getPropertyValue(`--${colourClass(name)}`).trim();
        const wanted = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
        let n = 0;
        for (let i = 0; i < data.length; i += 4) n += data[i + 3] > 0 && wanted.every((one, c) => one === data[i + c]);
        return n;
    });
}"""


def is_part_of(wanted, seen):
    """In this order, whatever lies between."""
    rest = iter(seen)
    return all(any(one == each for each in rest) for one in wanted)


def assert_evidence_grows(evidence):
    named = [set(one) for one in evidence]
    for step in ("shadow", "share"):
        assert {gate.replace("_", " ") for gate in ARMED[step]} in named
    agreement = [one["agreement"] for one in evidence if "agreement" in one]
    assert len(set(agreement)) > 2
    assert agreement == sorted(agreement)


def read_agreement(site, visit, new):
    made = site.ask("rollouts")[-1]
    pairs = [one["numbers"] for body in made["judged"] for one in body["verdicts"] if one["gate"] == "agreement"][-1]
    n, same = int(pairs["pairs"]), 100 * (1 - pairs["disagreements"] / pairs["pairs"])
    visit.page.get_by_role("link", name="Versions").click()
    card = visit.page.locator(".version-card").filter(has=visit.page.get_by_role("heading", name=new))
    expect(card).to_contain_text(f"Agreement with stable{same:.1f} % of {n:,} requests".replace(",", "\u202f"))
    expect(card).to_contain_text(f"({made['stable_name']}, rollout {made['number']})")


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
    content = report.page.content()
    report.page.goto("about:blank")  # the report itself forbids all script, so also that of axe-core
    report.page.set_content(content)
    assert report.violations() == []
    report.page.close()


def undo(visit, old):
    visit.button("Undo the last").click()
    expect(visit.dialog()).to_contain_text(f"to {old}, the stable version before it")
    visit.confirm("Undo", "it was only a test")
    expect(visit.page.locator(".last-rollout")).to_contain_text(f"succeeded: {old} is stable again", timeout=CHECKED_MS)


def test_an_undo_does_not_abort_what_was_ordered_while_its_dialog_stood_open(site, visiting):
    site.until_idle()
    old = site.stable()
    new = {"v1": "v2", "v2": "v1"}[old]
    site.order("rollouts", version=new, steps="none")
    site.until_idle()
    with visiting() as visit:
        visit.may_fail = {"/api/rollouts/undo"}
        visit.show("rollouts")
        visit.log_in(site.token)
        expect(
            visit.page.get_by_role("link", name=f"Report of rollout {site.ask('rollouts')[-1]['number']}")
        ).to_be_visible()
        visit.button("Undo the last").click()
        expect(visit.dialog()).to_contain_text(f"to {old}, the stable version before it")
        site.order("rollouts", version=old)
        number = site.ask("rollouts")[-1]["number"]
        visit.dialog().get_by_role("button", name="Undo").click()
        expect(visit.dialog().get_by_role("alert")).to_contain_text(
            f"not the last one, rollout {number} ({new} -> {old})"
        )
        assert not site.ask(f"rollouts/{number}")["rollout"]["abort"]
        site.order(f"rollouts/{number}/abort")
        site.until_idle()
    site.order("rollouts/undo")
    site.until_idle()
    assert site.stable() == old


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


def test_it_is_said_when_older_rollouts_are_left_out(visiting):
    script = """async (rollout) => {
        const {state, changed} = await import("/static/state.js");
        state.rollouts = Array.from({length: 100}, (_, i) => ({...rollout, number: i + 51}));
        changed();
    }"""
    with visiting() as visit:
        main = visit.show("rollouts")
        expect(main).not_to_contain_text("These are the newest")
        visit.page.evaluate(script, sight("succeeded", None, None)["rollout"])
        expect(main).to_contain_text("These are the newest 100. All are listed by: hotpool rollout history")


def sight(phase, share, counts):
    """As the gateway tells it of a rollout in its first step, a shadow."""
    rollout = {
        "number": 9, "phase": phase, "paused": False, "kind": "start", "stable": "a" * 64, "stable_name": "v1",
        "target": "b" * 64, "target_name": "v2", "workers": ["worker-0"], "analysis": {"step": 0}, "steps": [],
        "settings": {"steps": ["shadow", "25"], "strategy": "drain", "canary_workers": 1}, "operator": "Ada", "reason": "",
        "created_ts": "2026-11-23T10:00:00+00:00", "ended_ts": "", "abort": "",
    }  # fmt: skip
    return {"rollout": rollout, "message": "", "workers": [], "verdicts": [], "share": share, "counts": counts}


def test_a_rollout_is_paused_resumed_promoted_and_aborted(site, visiting):
    site.until_idle()
    old = site.stable()
    new = {"v1": "v2", "v2": "v1"}[old]
    start = ("--version", new, "--steps", "shadow,25,50", "--eval", site.folder / "labelled")
    site.hotpool("rollout", "start", *start, "--detach")
    with visiting() as visit:
        visit.show("rollouts")
        visit.log_in(site.token, operator=f"Eve {MARKUP}")
        card = visit.page.locator(".rollout-card")
        expect(card.locator(".stage.now")).to_contain_text("shadow", timeout=CHECKED_MS)
        for order, sentence, chip in (
            ("Pause", "The rollout holds where it is", "paused"),
            ("Resume", "goes on from where it was held", "analyzing"),
            ("Promote", "leaves the step shadow and goes on to the next step, 25 %", "analyzing"),
        ):
            visit.button(f"{order}…").click()
            expect(visit.dialog()).to_contain_text(sentence)
            visit.confirm(order, "a test")
            expect(card.locator(".chip")).to_contain_text(chip)
        assert visit.violations() == []
        expect(card.locator(".stage.now")).to_contain_text("25 %")
        promote_too_late(site, visit, card)
        abort(visit, old)
        read_accuracy(site, visit, new)
    site.until_idle()
    assert site.stable() == old


def promote_too_late(site, visit, card):
    """The rollout moves on while somebody reads what a promotion will do: that is no promotion of the next step."""
    number = site.ask("rollouts")[-1]["number"]
    visit.may_fail = {f"/api/rollouts/{number}/promote"}
    visit.button("Promote…").click()
    expect(visit.dialog()).to_contain_text("leaves the step 25 % and goes on to the next step, 50 %")
    site.order(f"rollouts/{number}/promote")
    expect(card.locator(".stage.now")).to_contain_text("50 %")
    visit.dialog().get_by_role("button", name="Promote").click()
    expect(visit.dialog().get_by_role("alert")).to_contain_text("at step 50 and not at step 25")
    visit.dialog().get_by_role("button", name="Cancel").click()
    expect(card.locator(".stage.now")).to_contain_text("50 %")


def abort(visit, old):
    visit.button("Abort…").click()
    expect(visit.dialog()).to_contain_text(f"Every worker goes back to {old}")
    visit.confirm("Abort", MARKUP)
    row = visit.page.locator(".history tbody tr").first
    expect(row).to_contain_text("rolled back")
    expect(row.locator(".ending")).to_contain_text(f"Eve {MARKUP}")
    assert_no_markup(visit)
    visit.page.get_by_role("link", name="Pool", exact=True).click()
    expect(visit.page.locator(".last-rollout .chip")).to_contain_text("rolled back")
    expect(visit.page.locator(".tile .tile-version")).to_have_text([old, old])


def read_accuracy(site, visit, new):
    made = site.ask("rollouts")[-1]
    right = 100 * (made["labelled"]["both_right"] + made["labelled"]["only_target"]) / LABELLED
    visit.page.get_by_role("link", name="Versions").click()
    card = visit.page.locator(".version-card").filter(has=visit.page.get_by_role("heading", name=new))
    expect(card).to_contain_text(f"Accuracy{right:.1f} % of {LABELLED} labelled pictures")
