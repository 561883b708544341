// The lists of versions and rollouts: asked for when something says that they have changed.

import { ask } from "./api.js";
import { learn } from "./marks.js";
import { changed, state } from "./state.js";
import { isOver } from "./words.js";

export async function loadVersions() {
  state.versions = await ask("api/versions");
  learn(state.versions);
  changed();
}

export async function loadRollouts() {
  state.rollouts = await ask("api/rollouts");
  changed();
}

let seen = "";

/** What the stream tells of rollouts is not their list, but says when it is another one. */
export function reloadWhenMoved() {
  const { status, newest, live } = state;
  const now = JSON.stringify([status?.stable?.digest, newest?.rollout.number, newest && isOver(newest.rollout)]);
  if (!live.isLive || now === seen) return;
  seen = now;
  reload();
}

/** Versions also come by the command line, of which no event tells. */
export function reload() {
  for (const load of [loadVersions, loadRollouts]) load().catch(() => (seen = "")); // at the next change, again
}
