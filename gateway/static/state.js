// What the page knows. Views are functions of it; whoever changes it says so by `changed()`.

export const state = {
  session: { is_admin: false, operator: null, inference_needs_token: false },
  live: { isLive: false, heardAt: Date.now(), why: "" }, // why: what is wrong, empty while it connects for the first time
  status: null, // as GET /api/status
  newest: null, // as GET /api/rollouts/{n} of the newest rollout
  samples: [], // of the traffic, one a second, the oldest first
  versions: null, // null: not asked for yet
  rollouts: null,
  jobs: [], // uploads: see upload.js
};

const listeners = new Set();
let isDue = false;

/** Calls back before the next picture is drawn, however often `changed` was called before that. */
export function onChange(listener) {
  listeners.add(listener);
}

export function changed() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    for (const listener of listeners) listener();
  });
}
