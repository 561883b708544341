// Pure: figures and times as people read them.

const UNITS = [
  [86400, "d", 3600, "h"],
  [3600, "h", 60, "min"],
  [60, "min", 1, "s"],
];

/** `0.31 s`, `12.0 s`, `2 min 04 s`, `3 h 05 min`: two units at most, as the command line has them. */
export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const [size, name, below, belowName] = UNITS.find(([size]) => seconds >= size);
  const rest = String(Math.floor((seconds % size) / below)).padStart(2, "0");
  return `${Math.floor(seconds / size)} ${name} ${rest} ${belowName}`;
}

/** For what is still going on: whole seconds, so that it does not flicker. */
export function age(seconds) {
  return seconds < 60 ? `${Math.floor(Math.max(0, seconds))} s` : duration(Math.floor(seconds));
}

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const [size, unit] = n < 1024 ** 2 ? [1024, "KiB"] : n < 1024 ** 3 ? [1024 ** 2, "MiB"] : [1024 ** 3, "GiB"];
  return `${(n / size).toFixed(n / size < 100 ? 1 : 0)} ${unit}`;
}

/** With thin spaces between thousands. */
export function count(n) {
  return String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}

/** What is neither certain nor impossible is not said to be. */
export function probability(share) {
  if (share < 0.0005) return "< 0.1 %";
  return share >= 0.9995 ? "> 99.9 %" : percent(share);
}

/** Milliseconds with three digits that matter. */
export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;
}

export function rate(perSecond) {
  return `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} /s`;
}

/** The reader's own day and hour. */
export function moment(ts) {
  const at = new Date(ts);
  const isToday = at.toDateString() === new Date().toDateString();
  const day = isToday ? {} : { day: "numeric", month: "short" };
  return at.toLocaleString("en-GB", { ...day, hour: "2-digit", minute: "2-digit" });
}

export function short(digest) {
  return digest ? digest.slice(0, 12) : "–";
}

/** `0-3, 8` of [0, 1, 2, 3, 8]. */
export function cores(numbers) {
  const runs = [];
  for (const n of [...numbers].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && n === last[1] + 1) last[1] = n;
    else runs.push([n, n]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(", ") || "–";
}

/** Messages of the library begin small, as they stand behind others. What begins with a name of something stays as it is. */
export function sentence(text) {
  const begun = text.replace(/^[a-z]+(?= )/, (word) => word[0].toUpperCase() + word.slice(1));
  return !begun || /[.?!]$/.test(begun) ? begun : `${begun}.`;
}

export function many(n, one, more = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : more}`;
}

export function seconds(from, to) {
  return ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
}
