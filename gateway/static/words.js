// Pure: rollouts in words: where one is, how it ended, what an order will do.

import { sentence } from "./format.js";

export const FINAL = new Set(["succeeded", "rejected", "rolled_back", "rollback_failed"]);

const ENDINGS = {
  succeeded: { look: "good", word: "succeeded", sign: "✓" },
  rejected: { look: "warn", word: "rejected", sign: "⊘" },
  rolled_back: { look: "warn", word: "rolled back", sign: "↩" },
  rollback_failed: { look: "bad", word: "rollback failed", sign: "✕" },
};

/** { look, word, sign } of a rollout's phase. */
export function outcome(rollout) {
  if (rollout.paused) return { look: "warn", word: "paused", sign: "‖" };
  return ENDINGS[rollout.phase] ?? { look: "busy", word: rollout.phase.replace("_", " "), sign: "▸" };
}

export function isOver(rollout) {
  return FINAL.has(rollout.phase);
}

export function stepName(step) {
  return step === "shadow" ? "shadow" : `${step.replace("%", "")} %`;
}

/** Whether the target gets copies of requests now. */
export function isInShadow(rollout) {
  return rollout.phase === "analyzing" && rollout.settings.steps[rollout.analysis.step] === "shadow";
}

/** The way of a rollout: [{ name, state }], state is done, now, to_come or failed. */
export function stages(rollout) {
  const steps = rollout.settings.steps;
  const way = ["check", ...(steps.length ? ["canary", ...steps.map(stepName)] : []), "all workers", "bake", "stable"];
  const reached = placeOf(rollout, way);
  const isBack = ["rejected", "rolling_back", "rolled_back", "rollback_failed"].includes(rollout.phase);
  const now = isBack ? "failed" : "now";
  const states = way.map((_, i) => (i < reached ? "done" : i > reached ? "to_come" : now));
  if (rollout.phase === "succeeded") states.fill("done");
  const made = way.map((name, i) => ({ name, state: states[i] }));
  if (isBack && rollout.phase !== "rejected") made.push({ name: `back to ${rollout.stable_name}`, state: BACK[rollout.phase] });
  return made;
}

const BACK = { rolling_back: "now", rolled_back: "done", rollback_failed: "failed" };

function placeOf(rollout, way) {
  const { phase, analysis, settings } = rollout;
  const roll = way.indexOf("all workers");
  const fixed = {
    pending: 0,
    preflight: 0,
    rejected: 0,
    canary: 1,
    rolling: roll,
    baking: roll + 1,
    committing: roll + 2,
    succeeded: roll + 2,
  };
  if (phase in fixed && !(phase === "canary" && analysis.step >= 0)) return fixed[phase];
  if (!settings.steps.length) return roll;
  return Math.min(analysis.step < 0 ? 1 : 2 + analysis.step, roll);
}

// ---- what an order will do, in a sentence

/** workers: how many there are. */
export function planOf(rollout) {
  const { stable_name: stable, target_name: target, settings, workers } = rollout;
  const canary = workers.slice(0, settings.canary_workers).join(", ");
  const shares = settings.steps.filter((step) => step !== "shadow").map((step) => step.replace("%", ""));
  const compared = [
    settings.steps.includes("shadow") && "on copies of requests",
    shares.length && `on ${listed(shares)} percent of them`,
  ].filter(Boolean);
  const judged = settings.steps.length
    ? `Then ${canary} gets it and it is compared with ${stable} ${compared.join(", then ")}; the others follow when it is not worse. ` +
      `If a gate fails, every worker goes back to ${stable} by itself.`
    : `Then every worker gets it, one after the other. Nothing compares it with ${stable} on live requests.`;
  return `${target} is checked in a process of its own. ${judged} ${MEANWHILE[settings.strategy]}`;
}

const MEANWHILE = {
  drain: "A worker that changes answers nobody meanwhile.",
  beside: "Workers go on answering while they load it.",
  surge: "A spare worker serves in the place of one that changes.",
};

/** rollout: the new one; or the one that is under way, which is what an undo aborts. */
export function undoPlan(rollout) {
  if (rollout.kind !== "undo") return `Rollout ${rollout.number} is under way and is aborted. ${abortPlan(rollout)}`;
  return (
    `Every worker goes back from ${rollout.stable_name} to ${rollout.target_name}, the stable version before it, as a new rollout. ` +
    `Nothing is compared on the way. ${MEANWHILE[rollout.settings.strategy]}`
  );
}

export function abortPlan(rollout) {
  const isUntouched = ["pending", "preflight"].includes(rollout.phase);
  const what = isUntouched
    ? `No worker has ${rollout.target_name} yet: the rollout just ends.`
    : `Every worker goes back to ${rollout.stable_name}, and ${rollout.target_name} answers nobody any more.`;
  return `${what} An abort can't be taken back.`;
}

export function pausePlan(rollout) {
  return (
    "The rollout holds where it is; workers that are changing end their step first. Until it is resumed, both versions go on " +
    `serving, and if a gate fails it still goes back to ${rollout.stable_name}.`
  );
}

export function resumePlan(rollout) {
  return rollout.pause_cause === "inconclusive"
    ? "The step begins again: new evidence is gathered, and the gates judge it anew."
    : "The rollout goes on from where it was held.";
}

/** The step of the canary that it is in; empty outside of them. */
export function stepNow({ phase, analysis, settings }) {
  return ["canary", "analyzing"].includes(phase) && analysis.step >= 0 ? settings.steps[analysis.step] : "";
}

export function promotePlan(rollout, isFull) {
  const { target_name: target, analysis, settings } = rollout;
  if (isFull) {
    return `All steps that are left are skipped and no gate is armed any more: ${target} goes to every worker and becomes stable.`;
  }
  const now = stepNow(rollout);
  if (!now) return "The rollout leaves its pause and goes on, whatever the gates say.";
  const next = settings.steps[analysis.step + 1];
  const goal = next ? `the next step, ${stepName(next)}` : "all workers";
  return `${target} leaves the step ${stepName(now)} and goes on to ${goal}, whatever the gates say.`;
}

function listed(parts) {
  return parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

// ---- a picture that was not answered

/** [title, advice] for people. status: of the pool, as far as the page knows it. */
export function pictureTrouble(failure, status) {
  const known = {
    bad_image: ["This picture can't be read", sentence(failure.message)],
    bad_input: ["This picture can't be used", sentence(failure.message)],
    too_large: ["This picture is too large", sentence(failure.message)],
    unsupported_type: ["This is not a picture", "Choose a JPEG, PNG, WebP, BMP or GIF."],
    queue_full: ["The queue is full", `The pool has more to do than it can carry. Try again ${soon(failure.retryAfter)}.`],
    too_much_held: ["The gateway is busy", `It holds as many pictures as it can. Try again ${soon(failure.retryAfter)}.`],
    no_ready_worker: ["No worker is ready", "The pool runs, but none of its workers can answer now. Try again in a moment."],
    deadline_exceeded: ["No answer in time", "The pool is busy, and did not answer within the time that was given."],
    broker_unreachable: [
      "The pool does not answer",
      "The gateway is there, but the broker behind it is not. Is the pool running?",
    ],
    worker_lost: ["The worker was lost", "Each worker that tried this picture was lost. Try again."],
    poison_request: ["This picture ends workers", "Two workers were lost with it, so it is not tried again."],
  };
  if (failure.status === 0) return ["No connection", failure.message];
  if (failure.status === 401)
    return ["A token is needed", "This pool answers only those who have its token. Log in, then try again."];
  const isOut = status && !status.workers.some((worker) => worker.state === "ready");
  const code = failure.code === "deadline_exceeded" && isOut ? "no_ready_worker" : failure.code;
  return known[code] ?? ["This did not work", sentence(failure.message)];
}

function soon(seconds) {
  return seconds ? `in ${seconds === 1 ? "a second" : `${seconds} seconds`}` : "in a moment";
}
