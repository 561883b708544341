// The rollout under way: where it is, the share, what can be ordered, and how far the gates' evidence has come.

import { button, h } from "./dom.js";
import { age, count, duration, percent, seconds } from "./format.js";
import { versionTag } from "./marks.js";
import { abort, pause, promote, resume } from "./orders.js";
import { isInShadow, isOver, outcome, stages } from "./words.js";

export function chip(rollout) {
  const { look, word, sign } = outcome(rollout);
  return h("span", { class: `chip ${look}` }, `${sign} ${word}`);
}

export function fromTo(rollout) {
  return h(
    "span",
    { class: "from-to" },
    versionTag(rollout.stable_name, rollout.stable),
    h("span", { class: "arrow", "aria-label": "to" }, "→"),
    versionTag(rollout.target_name, rollout.target),
  );
}

export function underWay(sight) {
  const { rollout, message } = sight;
  return h(
    "article",
    { class: "rollout-card", "data-key": `rollout-${rollout.number}`, "aria-labelledby": "rollout-title" },
    h(
      "div",
      { class: "bar" },
      h("h2", { id: "rollout-title" }, `${rollout.kind === "undo" ? "Undo" : "Rollout"} ${rollout.number} `, fromTo(rollout)),
      chip(rollout),
      orders(rollout),
    ),
    h("ol", { class: "stages" }, stages(rollout).map(stageView)),
    h("p", { class: "message", "aria-live": "polite" }, message),
    progress(sight),
    shares(sight),
    byWhom(rollout),
  );
}

/** One line for what is over. */
export function lastRollout({ rollout, message }) {
  return h(
    "section",
    { class: "last-rollout", "aria-labelledby": "last-title" },
    h("h2", { id: "last-title" }, "Last rollout"),
    h(
      "p",
      {},
      chip(rollout),
      " ",
      fromTo(rollout),
      " ",
      h("span", {}, message),
      " ",
      h("span", { class: "quiet" }, rollout.ended_ts ? `${age(seconds(rollout.ended_ts))} ago.` : ""),
      " ",
      reportLink(rollout),
    ),
  );
}

export function reportLink(rollout) {
  return h(
    "a",
    { href: `api/rollouts/${rollout.number}/report`, target: "_blank", rel: "noopener" },
    "Report",
    h("span", { class: "unseen" }, ` of rollout ${rollout.number}`),
  );
}

const STAGE_WORDS = { done: "done: ", now: "now: ", to_come: "to come: ", failed: "ended here: " };

function stageView({ name, state }) {
  return h(
    "li",
    { class: `stage ${state}`, "aria-current": state === "now" ? "step" : null },
    h("span", { class: "unseen" }, STAGE_WORDS[state]),
    name,
  );
}

function progress({ rollout, workers }) {
  const ordinary = workers.filter((worker) => !worker.worker.startsWith("spare-"));
  if (!ordinary.length) return null;
  const isBack = rollout.phase === "rolling_back";
  const [goal, name] = isBack ? [rollout.stable, rollout.stable_name] : [rollout.target, rollout.target_name];
  const nThere = ordinary.filter((worker) => worker.digest === goal && worker.state === "ready").length;
  const label = `Workers on ${name}`;
  return meter(label, `${nThere} of ${ordinary.length}`, nThere / ordinary.length);
}

/** Of the requests without a version, in percent: what the target is to get now, and what it got since counting began. */
function shares({ rollout, share, counts }) {
  if (!share) return null;
  const { asked, measured } = share;
  const routed = counts ? counts.stable.routed + counts.target.routed : 0;
  const got = measured === null ? "no requests yet" : `${percent(measured / 100)} of ${count(routed)}`;
  return h(
    "div",
    { class: "shares" },
    meter("Share asked for", percent(asked / 100), asked / 100),
    meter("Share measured since counting began", got, (measured ?? 0) / 100),
    isInShadow(rollout) ? meter("Shadow: copies compared", count(counts?.pairs ?? 0), null) : null,
  );
}

function meter(label, said, value) {
  return h(
    "div",
    { class: "meter" },
    h("span", { class: "meter-label" }, label),
    h("span", { class: "meter-said" }, said),
    value === null ? null : h("progress", { max: 1, value, "aria-label": label }),
  );
}

const RESULTS = { pass: ["good", "✓ pass"], fail: ["bad", "✕ fail"], inconclusive: ["busy", "… undecided"] };

/** Each with how near it is to a decision, and what it goes by. */
export function gates({ rollout, verdicts }) {
  if (!verdicts.length) return null;
  const isOpen = rollout.phase === "analyzing";
  return h(
    "section",
    { "aria-labelledby": "gates-title" },
    h(
      "h2",
      { id: "gates-title" },
      "Gates",
      isOpen ? null : h("span", { class: "hint" }, " from here on only a failure counts"),
    ),
    h("ul", { class: "gates" }, verdicts.map(gateView)),
  );
}

function gateView(verdict) {
  const [look, word] = RESULTS[verdict.result];
  const name = verdict.gate.replace("_", " ");
  return h(
    "li",
    { class: `gate ${look}`, "data-key": verdict.gate },
    h("span", { class: "gate-name" }, name, verdict.enforced ? null : h("span", { class: "hint" }, " reported only")),
    h("progress", { max: 1, value: verdict.progress, "aria-label": `Evidence of the gate ${name}` }),
    h("span", { class: "gate-result" }, verdict.result === "inconclusive" ? `${Math.round(100 * verdict.progress)} %` : word),
    h("p", { class: "gate-why" }, verdict.reason),
  );
}

function byWhom(rollout) {
  const why = rollout.reason ? `: “${rollout.reason}”` : "";
  return h(
    "p",
    { class: "quiet whom" },
    `Ordered by ${rollout.operator}${why}, ${age(seconds(rollout.created_ts))} ago. Strategy ${rollout.settings.strategy}.`,
  );
}

function orders(rollout) {
  if (isOver(rollout)) return null;
  const order = (text, act, look) => button(text, () => act(rollout), look);
  const canHold = !["rolling_back", "committing"].includes(rollout.phase) && !rollout.abort;
  if (!canHold) return null;
  return h(
    "div",
    { class: "orders" },
    rollout.paused ? order("Resume…", resume) : order("Pause…", pause),
    rollout.paused || rollout.settings.steps.length ? order("Promote…", promote) : null,
    order("Abort…", abort, "small outline grave"),
  );
}

export function took(rollout) {
  return duration(Math.max(0, seconds(rollout.created_ts, rollout.ended_ts)));
}
