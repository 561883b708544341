// A weights file on its way: sent in a stream, then checked by a process on the server, whose outcome is told.

import { ask, upload } from "./api.js";
import { button, choice, h, line } from "./dom.js";
import { age, bytes, sentence } from "./format.js";
import { reload } from "./lists.js";
import { versionTag } from "./marks.js";
import { start } from "./orders.js";
import { requireAdmin } from "./session.js";
import { changed, state } from "./state.js";

const LOOK_MS = 500;
let nUploads = 0;

const PRECISIONS = [
  ["fp32", "fp32"],
  ["int8", "int8"],
  ["auto", "auto: int8 if it agrees with fp32"],
];
const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}";
const SUFFIXES = ".safetensors,.pth,.pt";

/** Made once: what is typed into it stays when the list around it changes. */
export function makeUploadForm() {
  const form = h(
    "form",
    { class: "upload" },
    hinted(
      line("Weights file", { type: "file", name: "file", required: true, accept: SUFFIXES }),
      ".safetensors, or a state dict in .pth or .pt",
    ),
    hinted(line("Name", { name: "name", required: true, pattern: NAME, placeholder: "v2" }), "letters, digits, . _ and -"),
    hinted(line("Architecture", { name: "arch", placeholder: "resnet18" }), "as torchvision names it"),
    hinted(choice("Precision", "precision", PRECISIONS), "int8 is about four times smaller and faster"),
    hinted(h("label", {}, "Labels", h("textarea", { name: "labels", rows: 3 })), "one a line, in the order of the classes", "wide"),
    hinted(
      line("Why", { name: "reason", maxlength: 500, placeholder: "such as: retrained in October" }),
      "kept in the journal, with your name",
      "wide",
    ),
    h("button", { type: "submit" }, "Upload and check"),
  );
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (await requireAdmin()) send(form);
  };
  return form;
}

function hinted(label, hint, look = null) {
  const input = label.querySelector("input, select, textarea");
  input.setAttribute("aria-describedby", `hint-${input.name}`);
  return h("div", { class: look }, label, h("small", { id: `hint-${input.name}` }, hint));
}

function send(form) {
  const data = new FormData(form);
  const file = data.get("file");
  data.delete("file");
  data.append("file", file); // last: what is wrong with the rest is told before it is sent
  for (const name of ["arch", "labels", "reason"]) if (!data.get(name).trim()) data.delete(name);
  const job = {
    key: `upload-${++nUploads}`,
    name: data.get("name"),
    file: file.name,
    phase: "sending",
    sent: 0,
    size: file.size,
  };
  state.jobs.unshift(job);
  const { answer, stop } = upload("api/versions", data, (sent, size) => {
    Object.assign(job, { sent, size });
    changed();
  });
  job.stop = stop;
  changed();
  answer.then(
    (accepted) => follow(job, accepted.job, form),
    (failure) => fail(job, failure.message),
  );
}

function fail(job, why) {
  Object.assign(job, { phase: "failed", why });
  changed();
}

async function follow(job, number, form) {
  Object.assign(job, { phase: "checking", seconds: 0 });
  form.reset();
  try {
    let seen;
    do {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      seen = await ask(`api/jobs/${number}`);
      job.seconds = seen.seconds;
      changed();
    } while (seen.state === "running");
    if (seen.state === "failed") {
      fail(job, seen.error);
      return;
    }
    Object.assign(job, { phase: "added", version: seen.version, isStable: seen.is_stable });
    await reload();
  } catch (failure) {
    fail(job, `${sentence(failure.message)} Whether the version was added is seen in the list above.`);
  }
}

// ---- what is seen

export function uploadsView() {
  return state.jobs.length ? h("ul", { class: "jobs" }, state.jobs.map(jobView)) : null;
}

const VIEWS = { sending: sendingView, checking: checkingView, failed: failedView, added: addedView };

function jobView(job) {
  return h(
    "li",
    { "data-key": job.key, class: `job ${job.phase}` },
    h("p", {}, h("strong", {}, job.name), ` from ${job.file}`),
    VIEWS[job.phase](job),
  );
}

function sendingView({ sent, size, stop }) {
  return [
    h("progress", { max: size || 1, value: sent, "aria-label": "How much is sent" }),
    h("p", { class: "bar" }, `sending, ${bytes(sent)} of ${bytes(size)}`, button("Stop", stop, "small outline secondary")),
  ];
}

function checkingView({ seconds }) {
  return [
    h("progress", { "aria-label": "Checking" }),
    h("p", {}, `sent; every tensor is checked in a process of its own, ${age(seconds)}`),
  ];
}

function failedView(job) {
  return h("p", { class: "bar trouble", role: "alert" }, h("span", {}, `It was not added: ${sentence(job.why)}`), dismiss(job));
}

function addedView(job) {
  const { name, digest } = job.version;
  const next = job.isStable
    ? "It is the first version, so it is stable and serves now. "
    : button(`Roll out ${name}…`, () => start(name));
  return h("p", { class: "bar", role: "status" }, h("span", {}, "✓ added as ", versionTag(name, digest)), next, dismiss(job));
}

function dismiss(job) {
  const act = () => {
    state.jobs = state.jobs.filter((one) => one !== job);
    changed();
  };
  return button("Close", act, "link");
}
