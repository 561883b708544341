"""The page that a rollout leaves: what it says, what it draws, and that nothing in it can do anything."""

import base64
import hashlib
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

from control import report_style
from control.charts import CHAR, clock, fitting, nice_ceiling, time_ticks
from control.chronicle import Band, chronicle
from control.markup import table, tag, text
from control.report import render
from control.report_pictures import asked_shares, away, by_phase, disagreement, held, runs, timeline
from control.samples import ArmServed, Sample, Served
from tests.report_examples import BEGAN, NEW, OLD, Tale, rejected, rolled_back, succeeded

LEFT, WIDTH = 84.0, 866.0  # of the wide pictures


def rollback_failed():
    tale = Tale(steps=[])
    tale.preflight(2.0)
    tale.step("worker-0")
    tale.happens("abort_requested", {"reason": "wrong file"}, "bob@laptop")
    tale.happens("rollback_started", {"cause": "abort", "reason": "aborted by bob@laptop: wrong file"})
    tale.step("worker-0", OLD, fails="read error on /dev/sdb")
    tale.happens("rollback_failed", {"cause": "worker", "reason": "worker-0 failed 3 times"})
    return tale


def under_way():
    tale = Tale()
    tale.preflight(2.0)
    tale.step("worker-0")
    tale.analysis(0, 5)
    tale.happens("paused", {"cause": "inconclusive", "reason": "5 of 200 replies"})
    tale.wait(3)
    return tale


def promoted():
    """Out of a pause, and everything after it without gates."""
    tale = under_way()
    tale.happens("promoted", {"full": True, "reason": "seen enough"}, "ann@edge")
    tale.happens("roll_started", {"step": 3, "reason": "promoted"})
    tale.wait(2)
    tale.happens("bake_started")
    tale.happens("commit_started", {"digest": NEW})
    tale.happens("succeeded", {"digest": NEW})
    return tale


def of_an_old_journal():
    """From before there were strategies, canaries and samples; an undo."""
    tale = Tale(steps=[])
    body = tale.events[0].body
    del body["settings"]["strategy"], body["settings"]["steps"], body["settings"]["canary_workers"]
    tale.events[0] = replace(tale.events[0], body=body | {"kind": "undo"})
    tale.at = 1.0
    tale.happens("preflight_started")
    tale.happens("preflight_passed", {"seconds": 0.5})
    tale.at = 3.0
    tale.happens("bake_started")
    tale.happens("commit_started", {"digest": NEW})
    tale.happens("succeeded", {"digest": NEW})
    return tale


def at_once():
    """Rejected in the same instant."""
    tale = Tale()
    tale.happens("rejected", {"cause": "abort", "reason": "aborted by ann@edge"})
    return tale


TALES = [succeeded, rolled_back, rejected, rollback_failed, under_way, promoted, of_an_old_journal, at_once]


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in its order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.said = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in ("meta", "br"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.said.append(data)

    @property
    def text(self):
        return " ".join("".join(f"{part} " for part in self.said).split())

    def all(self, name, class_=""):
        return [a for n, a in self.tags if n == name and class_ in (a.get("class") or "")]


@cache
def told(tell):
    return tell()


@cache
def page_of(tell):
    return told(tell).page()


# ---- every page


@pytest.mark.parametrize("tell", TALES)
def test_every_page_is_whole_says_what_happened_and_holds_every_event(tell):
    page, tale = Page(page_of(tell)), told(tell)
    assert {"ann@edge", "v6", "v7"} <= set(page.text.split())
    assert "Rollout 7 of resnet18" in page.text
    for event in tale.events:
        assert f" {event.seq} " in page.text
        assert str(event.kind) in page.text
    assert "nan" not in page.text
    assert "None" not in page.text


@pytest.mark.parametrize("tell", TALES)
def test_a_page_needs_nothing_else_and_runs_nothing(tell):
    page = Page(page_of(tell))
    assert not {name for name, _ in page.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "form",
        "base",
        "a",
        "use",
    }
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("style", "src", "href", "xlink:href")}
    assert "http:" not in page_of(tell)
    assert "https:" not in page_of(tell)
    assert re.findall(r"@import|url\((?!#)", page_of(tell)) == []


def test_the_policy_allows_this_one_style_sheet():
    page = page_of(succeeded)
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [a["content"] for a in Page(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@pytest.mark.parametrize(
    ("tell", "word", "sentence"),
    [
        (succeeded, "✓ succeeded", "v7 is stable."),
        (
            rolled_back,
            "↩ rolled back",
            "All workers are back on v6: gate latency: in 64 of 64 windows it took over 1.15 times as long",
        ),
        (rejected, "⊘ rejected", "v7 was not let in: golden logits differ by 0.41 in row 3"),
        (rollback_failed, "✕ rollback failed", "Not all workers came back to v6: worker-0 failed 3 times."),
        (under_way, "… analyzing", "Under way for 14.5 s when this page was written."),
        (of_an_old_journal, "✓ succeeded", "v7 is stable again."),
    ],
)
def test_how_it_ended_is_a_word_and_a_sentence(tell, word, sentence):
    said = Page(page_of(tell)).text
    assert word in said
    assert re.sub(r"\d+\.\d s", "", sentence) in re.sub(r"\d+\.\d s", "", said)


HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>"
HOSTILE += "\" onload='alert(1)' &lt; \x00\x1b \u202e\u2066\ud800 ]]>"


def test_hostile_text_stays_text_wherever_it_comes_from():
    tale = Tale(reason=HOSTILE)
    created = tale.events[0]
    body = created.body | {"stable_name": HOSTILE, "target_name": f"2{HOSTILE}", "workers": [HOSTILE], "kind": HOSTILE}
    body["settings"] = body["settings"] | {"steps": [HOSTILE], "strategy": HOSTILE}
    tale.events[0] = replace(created, model=HOSTILE, operator=HOSTILE, body=body)
    tale.happens("preflight_started")
    tale.happens("canary_started")
    tale.happens("step_started", {"worker": HOSTILE, "incarnation": 1, "goal": NEW, "attempt": 1})
    tale.happens("step_failed", {"worker": HOSTILE, "part": HOSTILE, "fault": HOSTILE, "reason": HOSTILE})
    tale.happens("analysis_started", {"step": 0})
    tale.happens("paused", {"reason": HOSTILE, "cause": HOSTILE}, HOSTILE)
    verdict = {"gate": HOSTILE, "result": HOSTILE, "enforced": False, "reason": HOSTILE, "numbers": {HOSTILE: 1.5}}
    tale.happens("judged", {"step": 0, "result": HOSTILE, "verdicts": [verdict, verdict]})
    tale.happens("judged", {"step": 0, "result": "pass", "verdicts": [verdict]})
    tale.at = 9.0
    arm = ArmServed(5, 5, 1)
    served = {HOSTILE: Served(3, 1.0, 2.0)}
    tale.samples = [
        Sample("", at, 1.0, served, {HOSTILE: 1}, {HOSTILE: (HOSTILE, HOSTILE)}, 5.0, arm, arm, 3, 1)
        for at in (1.0, 2.0)
    ]
    tale.happens("rollback_started", {"cause": HOSTILE, "reason": HOSTILE})
    tale.happens("rolled_back", {"cause": HOSTILE, "reason": HOSTILE})
    html = tale.page()
    page, plain = Page(html), Page(page_of(rejected))
    assert not {name for name, _ in page.tags} & {"script", "img"}
    expected = {a for _, attributes in plain.tags for a in attributes} | {
        a for _, b in Page(page_of(succeeded)).tags for a in b
    }
    assert {a for _, attributes in page.tags for a in attributes} <= expected
    assert "<script>alert(1)</script>" in page.text
    assert not set("\x00\x1b\u202e\u2066\ud800") & set(html)
    html.encode()


def test_markup_escapes_text_and_attributes_and_leaves_markup_alone():
    assert tag("b", text("<&>"), tag("i"), title="\"'") == '<b title="&quot;&#39;">&lt;&amp;&gt;<i></i></b>'
    assert tag("p", class_="x", hidden=None, width=1.25) == '<p class="x" width="1.2"></p>'
    assert 'data-label="&lt;"' in table(["<"], [[text("x")]])


# ---- numbers in the pictures


def plain_rollout():
    """100 seconds: worker-0 drains from 20 to 30, loads until 34, verifies until 35, is back at 36; a rolling back at 50."""
    tale = Tale(steps=[])
    moments: list[tuple[int, str, dict[str, object]]] = [
        (10, "preflight_started", {}), (20, "preflight_passed", {"seconds": 10.0}),
        (20, "step_started", {"worker": "worker-0", "incarnation": 1, "goal": NEW, "attempt": 1}),
        (30, "step_drained", {"worker": "worker-0", "drain_s": 10.0}),
        (35, "step_loaded", {"worker": "worker-0", "load_s": 4.0, "verify_s": 1.0, "digest": NEW}),
        (36, "step_finished", {"worker": "worker-0", "rejoin_s": 1.0}),
        (40, "paused", {"cause": "user"}), (45, "resumed", {}), (50, "bake_started", {}), (90, "commit_started", {}),
        (100, "succeeded", {"digest": NEW}),
    ]  # fmt: skip
    for at, kind, body in moments:
        tale.at = float(at)
        tale.happens(kind, body)
    return tale


def x_of(attributes):
    """Seconds that a rectangle stands for."""
    start = (float(attributes["x"]) - LEFT) / WIDTH * 100
    return pytest.approx((start, start + float(attributes["width"]) / WIDTH * 100), abs=0.02)


def test_the_timeline_shows_each_phase_part_and_pause_at_its_time():
    tale = plain_rollout()
    drawn = Page(timeline(chronicle(7, tale.events), [], 960.0))
    assert [x_of(a) for a in drawn.all("rect", "phase")] == [(0, 10), (10, 20), (20, 50), (50, 90), (90, 100)]
    for part, times in {"drain": (20, 30), "load": (30, 34), "verify": (34, 35), "rejoin": (35, 36)}.items():
        assert [times] == [x_of(a) for a in drawn.all("rect", f"part {part}")]
    assert [x_of(a) for a in drawn.all("rect", "pause")] == [(40, 45)]
    assert [x_of(a) for a in drawn.all("rect", "target")] == [(36, 100)]
    assert [(0, 36), *[(0, 100)] * 3] == [x_of(a) for a in drawn.all("rect", "stable")]


def with_samples():
    """A request mix that changes once: 60 and 20 answers a second, then 40 and 40; 2 of them fail."""
    tale = plain_rollout()
    tale.samples = [
        Sample("", 50.0, 50.0, {"v6": Served(3000, 20.0, 50.0), "v7": Served(1000, 30.0, 80.0)}),
        Sample("", 100.0, 50.0, {"v6": Served(2000, 20.0, 50.0), "v7": Served(2000, 10.0, 80.0)}, {"worker_lost": 2}),
    ]
    return tale


def points(attributes):
    return [tuple(float(n) for n in point.split(",")) for point in attributes["points"].split()]


def test_throughput_is_stacked_and_times_are_lines_at_their_values():
    page = Page(with_samples().page())
    stable, target = (points(page.all("polygon", f"area {side}")[0]) for side in ("stable", "target"))
    bottom, height = 42.0 + 150, 150 / 80  # of 80 answers a second
    middle, right = LEFT + WIDTH / 2, LEFT + WIDTH
    assert stable[:4] == [(LEFT, bottom - 60 * height), (middle, bottom - 60 * height), (middle, bottom - 40 * height),
                          (right, bottom - 40 * height)]  # fmt: skip
    assert {y for _, y in target[:4]} == {42.0}
    assert {y for _, y in stable[4:]} == {bottom}
    p50 = points(page.all("polyline", "line target")[0])
    top = 42 + 150 + 40
    assert p50 == [(LEFT + WIDTH / 4, top + 120 * (1 - 30 / 40)), (LEFT + 3 * WIDTH / 4, top + 120 * (1 - 10 / 40))]
    assert "2 requests failed (worker_lost)" in page.text


def test_a_share_is_drawn_as_stairs_and_ends_with_its_policy():
    shares = [None, 5.0, 5.0, 25.0, None, 50.0]
    samples = [Sample("", i + 1.0, 1.0, share=share) for i, share in enumerate(shares)]
    first, second = asked_shares(samples)
    assert (first[0], first[-1]) == ((1.0, 5.0), (4.0, 25.0))
    assert (3.0, 5.0) in first
    assert (3.0, 25.0) in first
    assert (second[0], second[-1]) == ((5.0, 50.0), (6.0, 50.0))


def test_disagreement_adds_up_within_a_phase_and_begins_anew_in_the_next():
    story = chronicle(7, plain_rollout().events)
    samples = [Sample("", at, 1.0, pairs=10, disagreements=n) for at, n in ((30.0, 0), (31.0, 1), (60.0, 2), (61.0, 0))]
    parts = by_phase(story, samples, 99)
    assert [[s.at for s in run] for run in parts] == [[30.0, 31.0], [60.0, 61.0]]
    assert disagreement(parts) == [[(30.0, 0.0), (31.0, 5.0)], [(60.0, 20.0), (61.0, 10.0)]]


def test_a_gap_in_the_samples_stays_a_gap():
    samples = [Sample("", at, 1.0) for at in (1.0, 2.0, 30.0, 31.05)]
    assert [len(run) for run in runs(samples)] == [2, 2]


def test_a_worker_that_was_lost_is_shown_away_and_holds_what_it_came_back_with():
    story = chronicle(7, plain_rollout().events)
    states = [("ready", "v7"), ("down", ""), ("starting", ""), ("ready", "v6")]
    samples = [Sample("", 60.0 + i, 1.0, workers={"worker-0": state}) for i, state in enumerate(states)]
    assert away(samples, "worker-0") == [Band("down", 60.0, 62.0)]
    assert held(story, samples, "worker-0") == [Band("v6", 0.0, 36.0), Band("v7", 36.0, 62.0), Band("v6", 62.0, 100.0)]


def test_a_rollback_that_was_tried_again_is_a_phase_of_its_own():
    tale = rollback_failed()
    failed_at = tale.at
    tale.at += 60
    tale.happens("rollback_started", {"cause": "worker", "reason": "rollback retried by ann@edge"}, "ann@edge")
    tale.at += 5
    tale.happens("rolled_back")
    story = chronicle(7, tale.events)
    first, again = [band for band in story.phases if band.name == "rolling_back"]
    assert (first.end, again.start, again.end) == pytest.approx((failed_at, failed_at + 60, failed_at + 65))
    assert (story.phase, story.seconds) == ("rolled_back", again.end)
    assert "rollback retried by ann@edge" in Page(render(7, tale.events, [])).text


def test_a_step_that_failed_or_was_left_ends_where_it_stood():
    steps = chronicle(7, told(rollback_failed).events).steps
    assert [step.outcome for step in steps] == ["finished", "failed"]
    assert steps[1].goal == "v6"
    assert [part.name for part in steps[1].parts] == ["drain", "load"]
    tale = Tale(steps=[])
    tale.happens("preflight_started")
    tale.happens("preflight_passed")
    tale.happens("step_started", {"worker": "worker-0", "incarnation": 1, "goal": NEW, "attempt": 1})
    tale.at = 4.0
    tale.happens("rollback_started", {"cause": "abort", "reason": ""})
    (step,) = chronicle(7, tale.events).steps
    assert (step.outcome, step.end) == ("left", 4.0)


def test_a_step_is_told_by_its_own_strategy():
    tale = Tale(steps=[])
    tale.happens("preflight_started")
    tale.happens("preflight_passed")
    for n, strategy in enumerate(("drain", "beside")):
        worker = f"worker-{n}"
        tale.happens(
            "step_started", {"worker": worker, "incarnation": 1, "goal": NEW, "attempt": 1, "strategy": strategy}
        )
    assert [step.parts[0].name for step in chronicle(7, tale.events).steps] == ["drain", "load"]


# ---- gates


def test_each_judged_step_has_a_row_for_each_gate_with_reason_progress_and_numbers():
    page, tale = Page(page_of(rolled_back)), told(rolled_back)
    judged = [event.body for event in tale.events if event.kind == "judged"]
    verdicts = [verdict for body in judged for verdict in body["verdicts"]]
    meters = [
        a["width"] for a in page.all("rect", "") if a.get("height") == "100%" and a.get("rx") and a["width"] != "100%"
    ]
    assert [f"{100 * v['progress']:.0f}%" for v in verdicts if v["progress"] < 1] == meters
    for verdict in verdicts:
        assert verdict["reason"] in page.text
        assert set(verdict["numbers"]) <= set(page.text.split())
    assert page.text.count("reported only") == sum(not verdict["enforced"] for verdict in verdicts)
    assert "5 % ✕ fail" in page.text


def test_after_the_canary_a_verdict_is_named_by_its_phase():
    tale = under_way()
    tale.happens("roll_started", {"step": 3})
    tale.happens("judged", {"step": 3, "result": "pass", "verdicts": []})
    assert [one.step for one in chronicle(7, tale.events).judged] == ["shadow", "rolling"]


# ---- what may be missing, and what there may be too much of


def test_without_samples_the_page_says_so_and_still_shows_the_timeline():
    tale = told(succeeded)
    said = Page(render(7, tale.events, [])).text
    assert "No samples: the file is missing" in said
    assert "worker-3" in said


def test_a_long_rollout_makes_no_large_page():
    tale = plain_rollout()
    tale.events[-1] = replace(tale.events[-1], ts=tale.events[-1].ts.replace("-23T10", "-24T10"))
    one = Served(60, 20.0, 50.0)
    tale.samples = [Sample("", 86.0 * i, 86.0, {"v6": one, "v7": one}, share=5.0, pairs=1) for i in range(1, 1000)]
    page = tale.page()
    assert len(page) < 150_000
    assert "1 d 00 h" in page


def test_a_clock_that_was_set_back_does_not_turn_time_around():
    tale = plain_rollout()
    tale.events[4] = replace(tale.events[4], ts=BEGAN.isoformat())
    assert [at for at, _ in chronicle(7, tale.events).events] == [0, 10, 20, 20, 20, 35, 36, 40, 45, 50, 90, 100]


# ---- small things


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0:00"), (7.5, "0:07.5"), (59.97, "0:59"), (150, "2:30"), (3750, "1:02:30"), (100_000, "27:46:40")],
)
def test_a_moment_is_shown_as_on_a_clock(seconds, said):
    assert clock(seconds) == said


@pytest.mark.parametrize(
    ("n", "beginning", "end"),
    [(9, "worker-10", "worker-10"), (8, "worker-…", "…rker-10"), (4, "wor…", "…-10"), (3, "", "")],
)
def test_words_are_shortened_to_what_fits(n, beginning, end):
    assert fitting("worker-10", n * CHAR + 0.1) == beginning
    assert fitting("worker-10", n * CHAR + 0.1, keep_end=True) == end


@pytest.mark.parametrize("total_s", [0.1, 0.7, 5, 59, 61, 312, 3600, 86_400, 9e6])
def test_ticks_are_few_round_and_inside(total_s):
    ticks = time_ticks(total_s, 10)
    assert 1 < len(ticks) <= 11
    assert ticks[0] == 0
    assert ticks[-1] <= total_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.13, 0.2), (1, 1), (61, 80), (80, 80), (81, 100), (float("nan"), 1)]
)
def test_an_axis_ends_at_a_round_value_not_below(value, top):
    assert nice_ceiling(value) == pytest.approx(top)


@pytest.mark.parametrize("scheme", [report_style._LIGHT, report_style._DARK])
def test_text_is_easy_to_read_on_its_ground(scheme):
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", scheme))
    grounds = {"text": ("page", "soft", "shade"), "quiet": ("page", "soft", "shade"), "on-phase": ("phase0", "phase1"),
               "good": ("page",), "bad": ("page",), "warn": ("page",)}  # fmt: skip
    for ink, under in grounds.items():
        for ground in under:
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert all(contrast(colours[ink], colours["shade"]) >= 3 for ink in ("stable", "target", "other"))


def contrast(one, other):
    """WCAG 2."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
