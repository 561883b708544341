// The lists of versions and rollouts: asked for when something says that they have changed.

import { ask } from "./api.js";
import { learn } from "./marks.js";
import { changed, state } from "./state.js";
import { isOver } from "./words.js";

const RETRY_MS = 5000;

async function loadVersions() {
  state.versions = await ask("api/versions");
  learn(state.versions);
  changed();
}

async function loadRollouts() {
  state.rollouts = await ask("api/rollouts");
  changed();
}

const failed = new Map(); // lists that could not be had: when to ask for them again
let seen = "";

/** What the stream tells of rollouts is not their list, but says when it is another one. */
export function reloadWhenMoved() {
  const { status, newest, live } = state;
  if (!live.isLive) return;
  const now = JSON.stringify([status?.stable?.digest, newest?.rollout.number, newest && isOver(newest.rollout)]);
  if (now !== seen) {
    seen = now;
    reload();
  }
  for (const [load, at] of failed) if (Date.now() >= at) attempt(load);
}

/** Versions also come by the command line, of which no event tells. */
export function reload() {
  return Promise.all([loadVersions, loadRollouts].map(attempt));
}

async function attempt(load) {
  failed.delete(load);
  try {
    await load();
  } catch {
    failed.set(load, Date.now() + RETRY_MS);
  }
}
