// A colour and a shape for each version, so that one is told from another also without seeing colours.

import { h } from "./dom.js";
import { short } from "./format.js";

const N_COLOURS = 8;
const SHAPES = [
  ["circle", { cx: 8, cy: 8, r: 6.5 }],
  ["path", { d: "M8 1.2 15 14.4H1z" }],
  ["rect", { x: 2, y: 2, width: 12, height: 12 }],
  ["path", { d: "M8 .6 15.4 8 8 15.4.6 8z" }],
  ["path", { d: "M5.5 1h5v4.5H15v5h-4.5V15h-5v-4.5H1v-5h4.5z" }],
  ["path", { d: "M15 1.6H1L8 14.8z" }],
  ["path", { d: "M4.2 1.2h7.6L15.6 8l-3.8 6.8H4.2L.4 8z" }],
]; // as many as have no divisor in common with the colours: 56 pairs before one comes again
const DASHES = [[], [12, 3], [3, 2], [12, 3, 3, 3], [6, 3], [20, 4], [2, 3]];

const places = new Map(); // by digest and by name
let nPlaces = 0;

/** Versions in the order of the store, so that they look the same on every page. */
export function learn(versions) {
  for (const { name, digest } of versions) place(name, digest);
}

/** A number that stays the version's as long as the page is open. */
export function place(name, digest = "") {
  const known = places.get(digest) ?? places.get(name) ?? nPlaces++;
  for (const key of [digest, name]) if (key && !places.has(key)) places.set(key, known);
  return known;
}

export function colourClass(name, digest) {
  return name || digest ? `colour-${place(name, digest) % N_COLOURS}` : "colour-none";
}

export function dash(name) {
  return DASHES[place(name) % DASHES.length];
}

/** The mark with the name: what stands for a version everywhere. */
export function versionTag(name, digest = "") {
  const shown = name || (digest && short(digest));
  if (!shown) return h("span", { class: "version colour-none" }, "no version");
  const [tag, attributes] = SHAPES[place(name, digest) % SHAPES.length];
  const shape = h("svg", { class: "mark", viewBox: "0 0 16 16", "aria-hidden": "true" }, h(tag, attributes));
  return h("span", { class: `version ${colourClass(name, digest)}`, title: digest || null }, shape, shown);
}
