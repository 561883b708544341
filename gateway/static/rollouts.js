// Rollouts: the one under way, and those before it.

import { button, h, patch } from "./dom.js";
import { moment } from "./format.js";
import { start, undo } from "./orders.js";
import { chip, fromTo, gates, reportLink, took, underWay } from "./rollout_card.js";
import { state } from "./state.js";
import { isOver } from "./words.js";

export const title = "Rollouts";

export function build(root) {
  const all = h("div");
  root.append(all);
  return () => patch(all, head(), current(), history());
}

function head() {
  const versions = state.versions ?? [];
  const busy = state.newest && !isOver(state.newest.rollout) ? "Another one is under way" : "";
  const noOther = versions.some((one) => one.use !== "stable") ? "" : "There is no other version to roll out";
  const noEarlier = versions.some((one) => one.use === "previous stable") ? "" : "There is no stable version before this one";
  return h(
    "div",
    { class: "bar" },
    h("h1", {}, "Rollouts"),
    h(
      "div",
      { class: "orders" },
      orderButton("Undo the last…", () => undo(), "small outline secondary", busy || noEarlier),
      orderButton("Start a rollout…", () => start(), "small", busy || noOther),
    ),
  );
}

/** why: it can't be ordered now; empty when it can. */
function orderButton(text, act, look, why) {
  return button(text, act, look, { disabled: Boolean(why), title: why || null });
}

function current() {
  if (state.newest && !isOver(state.newest.rollout)) return [underWay(state.newest), gates(state.newest)];
  const stable = state.status?.stable;
  return h("p", { class: "empty" }, stable ? `No rollout is under way; ${stable.name} is stable.` : "No rollout is under way.");
}

const NEWEST = 100; // that the gateway tells of

const COLUMNS = ["No.", "Outcome", "From and to", "Began", "Took", "Who and why", "Report"];

const OLDER = `These are the newest ${NEWEST}. All are listed by: hotpool rollout history`;

function history() {
  const over = (state.rollouts ?? []).filter(isOver).reverse();
  const body = over.length
    ? h(
        "div",
        { class: "history-card" },
        h(
          "table",
          { class: "history" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              COLUMNS.map((text) => h("th", { scope: "col" }, text)),
            ),
          ),
          h("tbody", {}, over.map(row)),
        ),
      )
    : h("p", { class: "empty" }, state.rollouts ? "No rollout has ended yet." : "Asking for them");
  const older = state.rollouts?.length === NEWEST ? h("p", { class: "hint" }, OLDER) : null;
  return h("section", { "aria-labelledby": "history-title" }, h("h2", { id: "history-title" }, "History"), body, older);
}

function row(rollout) {
  return h(
    "tr",
    { "data-key": `history-${rollout.number}` },
    h("th", { scope: "row", class: "number" }, String(rollout.number)),
    h("td", { class: "outcome" }, chip(rollout)),
    h(
      "td",
      { class: "way" },
      fromTo(rollout),
      h("span", { class: "quiet" }, [rollout.kind === "undo" ? "undo, " : "", rollout.settings.strategy]),
    ),
    h("td", { class: "began" }, h("time", { datetime: rollout.created_ts }, moment(rollout.created_ts))),
    h("td", { class: "took" }, took(rollout)),
    h(
      "td",
      { class: "why" },
      h("strong", {}, rollout.operator),
      rollout.reason ? ` “${rollout.reason}”` : "",
      rollout.ending ? h("span", { class: "ending" }, rollout.ending) : null,
    ),
    h("td", { class: "report" }, reportLink(rollout)),
  );
}
