// Versions: what is stored and where it is from, and how another one gets there.

import { button, h, patch } from "./dom.js";
import { count, moment, percent, short } from "./format.js";
import { versionTag } from "./marks.js";
import { remove, start } from "./orders.js";
import { state } from "./state.js";
import { makeUploadForm, uploadsView } from "./upload.js";
import { isOver } from "./words.js";

export const title = "Versions";

export function build(root) {
  const [list, uploads] = [h("div"), h("div")];
  const form = makeUploadForm();
  const goToForm = () => {
    form.scrollIntoView();
    form.elements.file.focus();
  };
  root.append(
    h("div", { class: "bar" }, h("h1", {}, "Versions"), button("Add a version", goToForm, "small")),
    list,
    h("section", { "aria-labelledby": "upload-title" }, h("h2", { id: "upload-title" }, "Add a version"), uploads, form),
  );
  return () => {
    patch(list, listView());
    patch(uploads, uploadsView());
  };
}

function listView() {
  if (!state.versions) return h("p", { class: "empty" }, "Asking for them");
  if (!state.versions.length)
    return h("p", { class: "empty" }, "There is no version yet. The first one that is added serves at once.");
  return h("ul", { class: "versions" }, [...state.versions].reverse().map(versionView));
}

function versionView(version) {
  const { name, digest, use } = version;
  return h(
    "li",
    { "data-key": digest, class: "version-card" },
    h(
      "div",
      { class: "bar" },
      h("h2", {}, versionTag(name, digest)),
      use ? h("span", { class: `chip ${USES[use]}` }, use) : null,
      orders(version),
    ),
    h("dl", { class: "about" }, factsOf(version).map(factView)),
  );
}

function orders(version) {
  const { name, use } = version;
  if (use === "stable" || use === "target") return null;
  const isBusy = state.newest && !isOver(state.newest.rollout);
  const rollOut = () => button("Roll out…", () => start(name), "small outline", { "aria-label": `Roll out ${name}` });
  return h(
    "div",
    { class: "orders" },
    isBusy ? null : rollOut(),
    button("Remove…", () => remove(version), "small outline secondary", { "aria-label": `Remove ${name}` }),
  );
}

function factView([label, value, more = null]) {
  return h("div", { class: MEASURED.has(label) ? "broad" : null }, h("dt", {}, label), h("dd", { title: more }, value));
}

const USES = { stable: "good", target: "busy", "previous stable": "calm" };

const MEASURED = new Set(["Agreement with fp32", "Agreement with stable", "Accuracy"]);

function factsOf(version) {
  const { arch, classes, precision, preprocess, preprocessing, source, digest, labels } = version;
  return [
    ["Model", `${arch}, ${count(classes)} classes`, labels.slice(0, 20).join(", ")],
    ["Precision", precision],
    ["Pictures", `${preprocess}, ${preprocessing.crop} × ${preprocessing.crop}`],
    ["Source", source.startsWith("/") ? source.split("/").at(-1) : source, source],
    ["Added", `${moment(version.added_ts)} by ${version.added_by}`],
    ["Digest", h("code", {}, short(digest)), digest],
    ["Agreement with fp32", agreement(version)],
    ["Agreement with stable", liveAgreement(version)],
    ["Accuracy", accuracy(version)],
  ].filter(([, value]) => value !== null);
}

function agreement({ agreement: measured }) {
  if (!measured) return null;
  return `${percent(measured.top1)} of ${count(measured.pictures)} ${measured.source === "drawn" ? "drawn pictures" : "held-out pictures"}`;
}

/** The newest rollout to this version in which `what` was measured. */
function newestWith(version, what) {
  return state.rollouts?.findLast((one) => one.target === version.digest && what(one));
}

function pairsOf(rollout) {
  return rollout.judged.flatMap((body) => body.verdicts).findLast((one) => one.gate === "agreement" && one.numbers.pairs)
    ?.numbers;
}

function liveAgreement(version) {
  const rollout = newestWith(version, pairsOf);
  if (!rollout) return null;
  const { pairs, disagreements } = pairsOf(rollout);
  return `${percent(1 - disagreements / pairs)} of ${count(pairs)} requests (${rollout.stable_name}, rollout ${rollout.number})`;
}

function accuracy(version) {
  const rollout = newestWith(version, (one) => one.labelled);
  if (!rollout) return null;
  const { n, both_right: both, only_stable: onlyStable, only_target: onlyTarget } = rollout.labelled;
  return `${percent((both + onlyTarget) / n)} of ${count(n)} labelled pictures (${rollout.stable_name}: ${percent((both + onlyStable) / n)}, rollout ${rollout.number})`;
}
