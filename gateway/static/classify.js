// Classify: pictures that are dropped, pasted or chosen, each with what the pool says of it.

import { ask } from "./api.js";
import { button, h, patch } from "./dom.js";
import { bytes, many, milliseconds, probability } from "./format.js";
import { versionTag } from "./marks.js";
import { logIn } from "./session.js";
import { changed, state } from "./state.js";
import { pictureTrouble } from "./words.js";

const TOP = 3;
const AT_ONCE = 4; // the pool's queue is for all, and a browser opens six connections at most
const MOST = 200; // all cards are made anew whenever one changes
const TIMEOUT_S = 20;

const cards = []; // the newest first: { key, file, preview, phase, asking, answer, ms, trouble }
let nCards = 0;
let nAsking = 0;
let nLeftOut = 0;
let isDragged = false; // something over the page that would be taken

export const title = "Classify";

export function build(root) {
  const input = h("input", {
    type: "file",
    accept: "image/*",
    multiple: true,
    hidden: true,
    onchange: () => take(input),
  });
  const about = h("div", { class: "about-classes" });
  const zone = h(
    "div",
    { class: "dropzone" },
    input,
    pictureIcon(),
    button("Choose pictures", () => input.click(), ""),
    h("p", {}, "or drop them here, or paste one. JPEG, PNG, WebP, BMP or GIF."),
    about,
  );
  const list = h("div");
  root.append(h("h1", {}, "Classify"), zone, list);
  return () => {
    zone.classList.toggle("tall", cards.length === 0);
    zone.classList.toggle("over", isDragged);
    patch(about, aboutClasses());
    patch(list, warning(), heading(), leftOut(), cards.length ? h("ul", { class: "pictures" }, cards.map(cardView)) : null);
  };
}

/** From the clipboard, wherever on the page it happens. */
export function paste(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) {
    location.hash = "#classify";
    add(files);
  }
}

function take(input) {
  add([...input.files]);
  input.value = ""; // so that the same file can be chosen again
}

/** Of files that are dragged over the page, wherever: for what is dropped beside its place a browser leaves the page. */
export const drags = {
  dragover: (event) => {
    if (!event.dataTransfer.types.includes("Files") || event.target.type === "file") return; // such a field takes its own
    event.preventDefault();
    drag(location.hash === "#classify");
    if (!isDragged) event.dataTransfer.dropEffect = "none";
  },
  dragleave: (event) => {
    if (!event.relatedTarget) drag(false); // it has left the page, not only one part for another
  },
  drop: (event) => {
    if (!isDragged) return;
    event.preventDefault();
    drag(false);
    add([...event.dataTransfer.files]);
  },
};

function drag(is) {
  if (is === isDragged) return;
  isDragged = is;
  changed();
}

function add(files) {
  const room = MOST - cards.length;
  nLeftOut = Math.max(0, files.length - room);
  const added = files.slice(0, room).map((file) => ({
    key: `picture-${++nCards}`,
    file,
    preview: URL.createObjectURL(file),
    phase: "waiting",
  }));
  cards.unshift(...added);
  next();
}

function clear() {
  nLeftOut = 0;
  for (const { preview, asking } of cards.splice(0)) {
    URL.revokeObjectURL(preview);
    asking?.abort();
  }
  changed();
}

/** Asks about the waiting pictures, from the top. */
function next() {
  while (nAsking < AT_ONCE) {
    const card = cards.find((one) => one.phase === "waiting");
    if (!card) break;
    nAsking += 1;
    classify(card).finally(() => {
      nAsking -= 1;
      next();
    });
  }
  changed();
}

async function classify(card) {
  Object.assign(card, { phase: "asking", asking: new AbortController() });
  const since = performance.now();
  try {
    const form = new FormData();
    form.append("file", card.file, card.file.name);
    const headers = { "X-Request-Timeout-Seconds": String(TIMEOUT_S), Accept: "application/json" };
    const { signal } = card.asking;
    const answer = await ask(`predict?top=${TOP}`, { method: "POST", body: form, headers, signal });
    Object.assign(card, { phase: "answered", answer, ms: performance.now() - since });
  } catch (failure) {
    Object.assign(card, {
      phase: "failed",
      trouble: pictureTrouble(failure, state.status),
      needsToken: failure.status === 401,
    });
  }
}

async function again(card) {
  if (card.needsToken && !(await logIn())) return;
  card.phase = "waiting";
  next();
}

// ---- what is seen

/** What would keep every picture from being answered, before it is tried. */
function warning() {
  const { session, status, live } = state;
  if (session.inference_needs_token && !session.is_admin) {
    return h("p", { class: "bar" }, "This pool answers only those who have its token.", button("Log in", logIn));
  }
  const isOut = live.isLive && status && !status.workers.some((worker) => worker.state === "ready");
  return isOut
    ? h("p", { class: "trouble" }, "No worker is ready: pictures wait until one is, or until their time is up.")
    : null;
}

function heading() {
  if (!cards.length) return null;
  const nOpen = cards.filter((card) => ["waiting", "asking"].includes(card.phase)).length;
  const said = nOpen ? `${nOpen} of ${cards.length} to go` : many(cards.length, "picture");
  return h("div", { class: "bar" }, h("p", { "aria-live": "polite" }, said), button("Clear", clear, "small outline secondary"));
}

function leftOut() {
  if (!nLeftOut) return null;
  const said = `${many(nLeftOut, "picture was", "pictures were")} left out: the page holds ${MOST}. Clear it, then choose the rest.`;
  return h("p", { class: "trouble", role: "alert" }, said);
}

function aboutClasses() {
  const stable = state.versions?.find((one) => one.use === "stable");
  if (!stable) return h("p", {}, "There is no version yet that could answer: add one under Versions.");
  const some = stable.labels.slice(0, 6).join(", ");
  const classes = some
    ? `${many(stable.classes, "class", "classes")}: ${some}${stable.classes > 6 ? ", and so on" : ""}`
    : many(stable.classes, "class", "classes");
  return h("p", {}, `${stable.name} tells ${classes}.`);
}

function cardView(card) {
  const view = { waiting: waitingView, asking: waitingView, answered: answerView, failed: failureView }[card.phase];
  return h(
    "li",
    { "data-key": card.key, class: `picture ${card.phase}` },
    h(
      "div",
      { class: "preview" },
      card.isBroken ? pictureIcon() : h("img", { src: card.preview, alt: "", loading: "lazy", onerror: () => breaks(card) }),
    ),
    h(
      "div",
      { class: "said" },
      h("h2", { class: "file", title: card.file.name }, card.file.name || "pasted picture"),
      view(card),
    ),
  );
}

function pictureIcon() {
  return h(
    "svg",
    { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" },
    h("rect", { x: 3, y: 4, width: 18, height: 16, rx: 2 }),
    h("circle", { cx: 8.5, cy: 9, r: 1.6 }),
    h("path", { d: "m4 18 5.5-5.5 4 4L17 13l4 4" }),
  );
}

function breaks(card) {
  card.isBroken = true;
  changed();
}

function waitingView(card) {
  return h(
    "div",
    { class: "wait" },
    h("progress", { "aria-label": `Waiting for the answer to ${card.file.name}` }),
    h("p", { class: "hint" }, card.phase === "asking" ? "Asking the pool" : "Waits its turn", `, ${bytes(card.file.size)}`),
  );
}

function answerView({ answer, ms }) {
  return [
    h(
      "ol",
      { class: "scores" },
      answer.predictions.map(({ index, label, probability: share }) =>
        h(
          "li",
          {},
          h("span", { class: "label", title: `class ${index}` }, label || `class ${index}`),
          h("span", { class: "share" }, probability(share)),
          h("progress", { max: 1, value: share, "aria-label": `Probability of ${label || `class ${index}`}` }),
        ),
      ),
    ),
    h(
      "p",
      { class: "by" },
      versionTag(answer.version, answer.digest),
      h(
        "span",
        {
          title: `waited ${milliseconds(answer.queue_ms)}, computed ${milliseconds(answer.service_ms)} in ${answer.worker}`,
        },
        `${milliseconds(ms)}, computing ${milliseconds(answer.service_ms)}`,
      ),
    ),
  ];
}

function failureView(card) {
  const [what, advice] = card.trouble;
  return h(
    "div",
    { class: "trouble", role: "alert" },
    h("p", {}, h("strong", {}, what)),
    h("p", {}, advice),
    button(card.needsToken ? "Log in" : "Try again", () => again(card)),
  );
}
