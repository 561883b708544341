// What can be ordered. Each order says first what it will do, and asks who orders it and why.

import { ask } from "./api.js";
import { askInDialog, changingText, notify } from "./dialogs.js";
import { choice, h } from "./dom.js";
import { sentence } from "./format.js";
import { reload } from "./lists.js";
import { requireAdmin, whoAndWhy } from "./session.js";
import { state } from "./state.js";
import { abortPlan, pausePlan, planOf, promotePlan, resumePlan, stepNow, undoPlan } from "./words.js";

const STRATEGIES = [
  ["", "as configured"],
  ["drain", "drain: out of service while it changes"],
  ["beside", "beside: while it serves"],
  ["surge", "surge: a spare worker serves meanwhile"],
];
const STEPS = [
  ["", "as configured"],
  ["auto", "auto: shadow, then growing shares"],
  ["none", "none: nothing is judged on live requests"],
];

function heading(rollout) {
  return `rollout ${rollout.number} (${rollout.stable_name} → ${rollout.target_name})`;
}

async function order(rollout, { verb, title, what, fields = [], confirm, example, isGrave, read = () => ({}) }) {
  if (!(await requireAdmin())) return;
  const done = await askInDialog({
    title,
    what,
    confirm,
    isGrave,
    fields: [fields, whoAndWhy(example)],
    act: (form) =>
      ask(`api/rollouts/${rollout.number}/${verb}`, {
        method: "POST",
        body: { reason: form.get("reason"), ...read(form) },
      }),
  });
  if (done) notify(`Ordered: ${verb} ${heading(rollout)}.`);
}

export function pause(rollout) {
  return order(rollout, {
    verb: "pause",
    title: `Pause ${heading(rollout)}?`,
    what: h("p", {}, pausePlan(rollout)),
    confirm: "Pause",
    example: "on call has changed",
  });
}

export function resume(rollout) {
  return order(rollout, {
    verb: "resume",
    title: `Resume ${heading(rollout)}?`,
    what: h("p", {}, resumePlan(rollout)),
    confirm: "Resume",
    example: "there is traffic again",
  });
}

export function abort(rollout) {
  return order(rollout, {
    verb: "abort",
    title: `Abort ${heading(rollout)}?`,
    what: h("p", {}, abortPlan(rollout)),
    confirm: "Abort",
    example: "wrong file",
    isGrave: true,
  });
}

export function promote(rollout) {
  const text = changingText();
  text.say(promotePlan(rollout, false));
  const hasSteps = rollout.settings.steps.length > 0;
  const step = stepNow(rollout); // which may be left by itself while somebody reads what will happen
  const full = h("input", {
    type: "checkbox",
    name: "full",
    onchange: () => text.say(promotePlan(rollout, full.checked)),
  });
  return order(rollout, {
    verb: "promote",
    title: `Promote ${heading(rollout)}?`,
    what: text.element,
    confirm: "Promote",
    example: "looked at by hand",
    fields: hasSteps ? [h("label", {}, full, "Skip all steps that are left, without gates")] : [],
    read: () => ({ full: full.checked, step }),
  });
}

// ---- new rollouts

/** version: a name; empty: it is chosen in the dialog. */
export async function start(version = "") {
  if (!(await requireAdmin())) return;
  const text = changingText();
  const chosen = (form) =>
    Object.fromEntries(["version", "strategy", "steps"].map((name) => [name, form.get(name)]).filter(([, value]) => value));
  const send = (form, more) => ask("api/rollouts", { method: "POST", body: { ...chosen(form), ...more } });
  const plan = (form) => sayPlan(text, () => send(new FormData(form), { reason: "", dry_run: true }), planOf);
  const done = await askInDialog({
    title: "Start a rollout",
    what: text.element,
    confirm: "Start",
    onOpen: plan,
    fields: [startFields(version, plan), whoAndWhy("retrained in October")],
    act: (form) => send(form, { reason: form.get("reason") }),
  });
  if (done) watch(done);
}

function startFields(version, onChoice) {
  const others = (state.versions ?? []).filter((one) => one.use !== "stable").map((one) => [one.name, one.name]);
  others.reverse(); // the newest is most often meant
  const onchange = (event) => onChoice(event.target.form);
  return [
    choice("Version", "version", others, { onchange, chosen: version }),
    h(
      "div",
      { class: "pair" },
      choice("Strategy", "strategy", STRATEGIES, { onchange }),
      choice("Steps of the canary", "steps", STEPS, { onchange }),
    ),
  ];
}

let nPlans = 0;

/** Asks the controller what it would do, and says so, or why it would refuse. */
async function sayPlan(text, plan, inWords) {
  const number = ++nPlans;
  const say = (said) => number === nPlans && text.say(said); // what comes late is of an earlier choice
  say("Asking the controller what it would do");
  try {
    const { result, rollout } = await plan();
    say(result === "unchanged" ? "That version is stable already: nothing would change." : inWords(rollout));
  } catch (failure) {
    say(h("span", { class: "trouble" }, sentence(failure.message)));
  }
}

export async function undo() {
  if (!(await requireAdmin())) return;
  const text = changingText();
  const number = (state.rollouts?.at(-1) ?? state.newest?.rollout)?.number; // if another is ordered meanwhile, that one is not meant
  const send = (more) => ask("api/rollouts/undo", { method: "POST", body: { number, ...more } });
  const done = await askInDialog({
    title: "Undo the last rollout?",
    what: text.element,
    confirm: "Undo",
    isGrave: true,
    onOpen: () => sayPlan(text, () => send({ reason: "", dry_run: true }), undoPlan),
    fields: whoAndWhy("it confuses cats with dogs"),
    act: (form) => send({ reason: form.get("reason") }),
  });
  if (done) watch(done);
}

function watch({ result, rollout }) {
  if (result === "unchanged") {
    notify("That version is stable already: nothing was ordered.");
    return;
  }
  notify(`Ordered: ${result === "aborted" ? "abort of " : ""}${heading(rollout)}.`);
  location.hash = "#pool";
}

export async function remove(version) {
  if (!(await requireAdmin())) return;
  const done = await askInDialog({
    title: `Remove ${version.name}?`,
    confirm: "Remove",
    isGrave: true,
    what: h(
      "p",
      {},
      `The weights of ${version.name} are deleted from the store for good. To have it again, its file must be added once more.`,
    ),
    fields: whoAndWhy("never served"),
    act: (form) => ask(`api/versions/${version.digest}?reason=${encodeURIComponent(form.get("reason"))}`, { method: "DELETE" }),
  });
  if (!done) return;
  notify(`${version.name} is removed.`);
  await reload();
}
