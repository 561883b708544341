// Elements made and brought up to date without a framework. Text from anywhere is only ever a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "circle", "rect"]);
const HANDLERS = Symbol("handlers");

/** An element. A property that is a function becomes an `on...` handler; null, undefined and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  element[HANDLERS] = {};
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      element[HANDLERS][name] = element[name] = value;
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A button that orders nothing by itself. look: its classes. */
export function button(text, onclick, look = "small outline", attributes = {}) {
  return h("button", { type: "button", class: look, onclick, ...attributes }, text);
}

/** A field for one line, with its label. */
export function line(label, attributes) {
  return h("label", {}, label, h("input", { autocomplete: "off", ...attributes }));
}

export function choice(label, name, options, attributes = {}) {
  const made = options.map(([value, text]) => h("option", { value, selected: value === attributes.chosen }, text));
  return h("label", {}, label, h("select", { name, onchange: attributes.onchange }, made));
}

/** Makes the children of `parent` like the given ones, and keeps what is the same already: focus, scrolling, animations. */
export function patch(parent, ...children) {
  const wanted = h("div", {}, children);
  patchChildren(parent, wanted);
}

function patchChildren(parent, wanted) {
  const keyed = new Map([...parent.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let present = parent.firstChild;
  for (const child of [...wanted.childNodes]) {
    const match = keyOf(child) ? keyed.get(keyOf(child)) : present && !keyOf(present) ? present : null;
    if (match && match !== present) {
      parent.insertBefore(match, present);
    }
    if (match && isAlike(match, child)) {
      patchNode(match, child);
      present = match.nextSibling;
    } else if (match) {
      match.replaceWith(child);
      present = child.nextSibling;
    } else {
      parent.insertBefore(child, present);
    }
  }
  while (present) {
    const next = present.nextSibling;
    present.remove();
    present = next;
  }
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function isAlike(node, wanted) {
  return node.nodeName === wanted.nodeName && keyOf(node) === keyOf(wanted);
}

function patchNode(node, wanted) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== wanted.data) node.data = wanted.data;
    return;
  }
  patchAttributes(node, wanted);
  for (const name of Object.keys(node[HANDLERS] ?? {})) node[name] = null;
  Object.assign(node, wanted[HANDLERS]);
  node[HANDLERS] = wanted[HANDLERS];
  patchChildren(node, wanted);
}

function patchAttributes(node, wanted) {
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name) && name !== "open") node.removeAttribute(name); // `open`: whoever reads opened it
  }
  for (const { name, value } of wanted.attributes) {
    if (node.getAttribute(name) !== value && name !== "open") node.setAttribute(name, value);
  }
}
