// The page: its views, the strip that says whether it is live, and who is logged in.

import * as classify from "./classify.js";
import { notify } from "./dialogs.js";
import { button, h, patch } from "./dom.js";
import { age, sentence } from "./format.js";
import { reload, reloadWhenMoved } from "./lists.js";
import { goLive } from "./live.js";
import * as pool from "./pool.js";
import * as rollouts from "./rollouts.js";
import { loadSession, logIn, logOut } from "./session.js";
import { changed, onChange, state } from "./state.js";
import * as versions from "./versions.js";

const VIEWS = { classify, pool, rollouts, versions };
const main = document.getElementById("main");
let update = () => {};

function show() {
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "pool";
  document.title = `${VIEWS[name].title} – hotpool`;
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren();
  main.className = `container ${name}`;
  update = VIEWS[name].build(main);
  update();
}

function showStrip() {
  const { isLive, heardAt, why } = state.live;
  const seconds = (Date.now() - heardAt) / 1000;
  const isLate = !isLive && (why || seconds > 1); // a connection takes a moment: no need to alarm anybody
  const old = h("span", { "aria-hidden": "true" }, state.status ? `What you see is ${age(seconds)} old. ` : ""); // each second
  const said = [h("strong", {}, "Not live."), ` ${sentence(why)} `, old, "Trying again."];
  patch(document.getElementById("strip"), isLate ? h("p", { class: "container" }, said) : null);
  document.body.classList.toggle("stale", Boolean(isLate));
}

function showWho() {
  const { is_admin: isAdmin, operator } = state.session;
  const look = "small outline secondary";
  const parts = isAdmin
    ? [
        h("span", { class: "operator", title: "You can change things under this name" }, operator),
        button("Log out", logOut, look),
      ]
    : [button("Log in", logIn, look)];
  patch(document.getElementById("who"), liveDot(), parts);
}

function liveDot() {
  const { isLive } = state.live;
  return h("span", { class: `live ${isLive ? "on" : "off"}` }, isLive ? "live" : "not live");
}

onChange(() => {
  reloadWhenMoved();
  showWho();
  showStrip();
  update();
});
addEventListener("hashchange", () => {
  show();
  reload();
  main.focus();
  scrollTo(0, 0);
});
addEventListener("paste", classify.paste);
addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "Failure") return;
  event.preventDefault();
  notify(sentence(event.reason.message));
});
setInterval(changed, 1000); // ages
for (const [name, listener] of Object.entries(classify.drags)) addEventListener(name, listener);
show();
// Versions first: they decide about colours. But a controller that hangs must not keep us from what the broker tells.
await Promise.race([Promise.allSettled([reload(), loadSession()]), new Promise((go) => setTimeout(go, 2000))]);
goLive();
