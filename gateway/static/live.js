// The stream of changes. It connects again by itself, and says for how long it has not been live.

import { changed, state } from "./state.js";

const HISTORY_S = 15 * 60;
const SILENCE_MS = 8000; // there is traffic to report each second, even if it is none
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;

let source = null;
let timer = null;
let wait = FIRST_WAIT_MS;

const READERS = {
  status: (data) => Object.assign(state, { status: data }),
  rollout: (data) => Object.assign(state, { newest: data }),
  history: (data) => Object.assign(state, { samples: data.samples }),
  traffic: addSample,
};

/** Call it once. A page that nobody sees holds no connection; browsers allow few of them to one server. */
export function goLive() {
  document.addEventListener("visibilitychange", connect);
  addEventListener("online", connect);
  connect();
}

function connect() {
  close();
  if (document.hidden) return;
  source = new EventSource("api/events");
  source.onerror = () => lose("The connection to the gateway is lost.");
  // The gateway is there and the broker behind it is not: what we know is old, but there is no need to connect again.
  source.addEventListener("down", (event) => receive(event, (data) => setLive(false, data.error)));
  for (const [kind, read] of Object.entries(READERS)) source.addEventListener(kind, (event) => receive(event, read));
  expectMore();
}

function receive(event, read) {
  wait = FIRST_WAIT_MS;
  if (event.type !== "history") setLive(true, "");
  read(JSON.parse(event.data));
  expectMore();
  changed();
}

function lose(why) {
  close();
  setLive(false, why);
  timer = setTimeout(connect, wait);
  wait = Math.min(2 * wait, LONGEST_WAIT_MS);
  changed();
}

function expectMore() {
  clearTimeout(timer);
  timer = setTimeout(() => lose("The gateway has been silent for too long."), SILENCE_MS);
}

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function setLive(isLive, why) {
  if (isLive !== state.live.isLive) state.live.since = Date.now();
  Object.assign(state.live, { isLive, why });
}

function addSample(sample) {
  const from = sample.at - HISTORY_S;
  state.samples = [...state.samples.filter((one) => one.at >= from && one.at < sample.at), sample];
}
