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
  status: news((data) => (state.status = data)),
  rollout: news((data) => (state.newest = data)),
  traffic: news((data) => addSamples([data])),
  history: (data) => addSamples(data.samples),
  // The gateway is there and the broker behind it is not: there is no need to connect again.
  down: (data) => Object.assign(state.live, { isLive: false, why: data.error }),
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
  for (const kind of Object.keys(READERS)) source.addEventListener(kind, receive);
  expectMore();
}

function receive({ type, data }) {
  wait = FIRST_WAIT_MS;
  READERS[type](JSON.parse(data));
  expectMore();
  changed();
}

function lose(why) {
  close();
  Object.assign(state.live, { isLive: false, why });
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

/** A reader of what tells how the pool is now. */
function news(read) {
  return (data) => {
    Object.assign(state.live, { isLive: true, heardAt: Date.now(), why: "" });
    read(data);
  };
}

/** A gateway that was started again knows nothing of what was before; the page does. */
function addSamples(samples) {
  if (!samples.length) return;
  const [first, last] = [samples[0].at, samples.at(-1).at];
  state.samples = [...state.samples.filter((one) => one.at >= last - HISTORY_S && one.at < first), ...samples];
}
