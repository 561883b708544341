// Pool: what the workers do, live.

import { makeCharts } from "./charts.js";
import { h, patch } from "./dom.js";
import { bytes, cores, count, duration, rate } from "./format.js";
import { colourClass, versionTag } from "./marks.js";
import { gates, lastRollout, underWay } from "./rollout_card.js";
import { state } from "./state.js";
import { isOver } from "./words.js";

export const title = "Pool";

export function build(root) {
  const [top, charts] = [h("div"), h("section", { class: "charts" })];
  root.append(top, charts);
  const updateCharts = makeCharts(charts);
  return () => {
    patch(top, state.status ? poolView(state.status, state.newest) : waiting());
    charts.hidden = !state.status;
    updateCharts(state.samples);
  };
}

function waiting() {
  const said = state.live.why ? "Nothing is known of the pool yet." : "Asking the pool how it is";
  return [
    h("div", { class: "bar" }, h("h1", {}, "Pool")),
    h("div", { class: "empty", "aria-busy": state.live.why ? null : "true" }, said),
  ];
}

function poolView(status, newest) {
  const isMoving = newest && !isOver(newest.rollout);
  return [
    h("div", { class: "bar" }, h("h1", {}, "Pool"), health(status)),
    status.reasons.length
      ? h(
          "ul",
          { class: "reasons" },
          status.reasons.map((reason) => h("li", {}, reason)),
        )
      : null,
    facts(status),
    isMoving ? underWay(newest) : null,
    workersView(status.workers, isMoving ? newest.rollout : null),
    isMoving ? gates(newest) : null,
    newest && !isMoving ? lastRollout(newest) : null,
  ];
}

function health({ reasons }) {
  return reasons.length ? h("span", { class: "chip bad" }, "! degraded") : h("span", { class: "chip good" }, "✓ healthy");
}

function facts({ stable, queue, workers, broker }) {
  const nReady = workers.filter((worker) => worker.state === "ready").length;
  const now = Object.values(state.samples.at(-1)?.versions ?? {});
  const answers = now.reduce((sum, one) => sum + one.rate, 0);
  const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  return h(
    "dl",
    { class: "facts" },
    fact("Stable version", stable ? versionTag(stable.name, stable.digest) : "none yet"),
    fact("Workers ready", `${nReady} of ${workers.length}`),
    fact("Answers", rate(answers)),
    fact(
      "Queue",
      h(
        "span",
        { class: queue.requests > 0.8 * queue.requests_max ? "bad" : null },
        `${count(queue.requests)} of ${count(queue.requests_max)}`,
      ),
    ),
    broker ? fact("Broker up", duration(broker.uptime_s)) : null,
  );
}

const NO_WORKERS = "The broker knows of no workers. They start within seconds; if not, logs/workers.log says why.";

function workersView(workers, rollout) {
  if (!workers.length) return h("div", { class: "empty" }, NO_WORKERS);
  const steps = new Map((rollout?.steps ?? []).map((step) => [step.worker, step]));
  return h(
    "section",
    { "aria-labelledby": "workers-title" },
    h("h2", { id: "workers-title" }, "Workers"),
    h(
      "ul",
      { class: "tiles" },
      workers.map((worker) => tile(worker, rollout, steps.get(worker.worker))),
    ),
  );
}

const STATE_LOOKS = { ready: "good", down: "bad" };
const STATE_SIGNS = { ready: "●", down: "✕", starting: "…", draining: "▽", drained: "▽", loading: "↻", verifying: "↻" };

/** step: the open one of the rollout, if it has this worker on the way. */
function tile(worker, rollout, step) {
  const { worker: name, version, digest, state: where, beside, note, load_reason: reason } = worker;
  const look = beside || step ? "busy" : (STATE_LOOKS[where] ?? "busy");
  const doing = `${STATE_SIGNS[where]} ${beside ? `${where}, ${beside}` : where}`;
  const role = isCanary(worker, rollout) && !step ? h("span", { class: "role" }, "canary") : null;
  return h(
    "li",
    { "data-key": name, class: `tile ${colourClass(version, digest)} state-${where} ${step ? "moving" : ""}` },
    h("div", { class: "tile-top" }, h("h3", {}, name), h("span", { class: `state ${look}` }, doing)),
    h("p", { class: "tile-version" }, versionTag(version, digest), step ? goal(worker, rollout, step) : null, role),
    figures(worker),
    note || reason ? h("p", { class: "note" }, note || reason) : null,
  );
}

function figures({ cores: numbers, in_flight: inFlight, served, private_bytes: own, rss_bytes: all, restarts }) {
  const fact = (name, value, title = null) => h("div", {}, h("dt", {}, name), h("dd", { title }, value));
  const nRestarts = Object.values(restarts).reduce((sum, n) => sum + n, 0);
  const causes = Object.entries(restarts).map(([cause, n]) => `${n} ${cause}`);
  return h(
    "dl",
    {},
    fact("cores", cores(numbers)),
    fact("in flight", count(inFlight)),
    fact("served", count(served)),
    fact("memory", bytes(own), `its own; ${bytes(all)} with what it shares`),
    fact("restarts", count(nRestarts), causes.join(", ") || null),
  );
}

function isCanary({ worker }, rollout) {
  const n = rollout?.settings.steps.length ? rollout.settings.canary_workers : 0;
  return n > 0 && rollout.workers.slice(0, n).includes(worker);
}

function goal(worker, rollout, step) {
  const name = step.goal === rollout.target ? rollout.target_name : rollout.stable_name;
  if (worker.digest === step.goal) return null;
  return [h("span", { class: "arrow", "aria-label": "on its way to" }, "→"), versionTag(name, step.goal)];
}
