// Dialogs: what is asked before anything changes.

import { button, h, patch } from "./dom.js";
import { sentence } from "./format.js";

let nDialogs = 0;

/** Opens a dialog that asks. Its promise becomes what `act` gave, or null when it was cancelled.

    fields: elements of the form. act(data): an answer's promise; where it fails the dialog stays, with the message. onOpen(form):
    what is to be done then. isGrave: what is ordered takes something away. */
export function askInDialog({ title, what, fields = [], confirm, act, onOpen = () => {}, isGrave = false }) {
  const id = `dialog-${++nDialogs}`;
  const trouble = h("p", { class: "trouble", role: "alert", hidden: true });
  const submit = h("button", { type: "submit", class: isGrave ? "grave" : null }, confirm);
  const cancel = button("Cancel", () => dialog.close(), "secondary outline");
  const form = h("form", { class: "asks" }, fields, trouble, h("footer", {}, cancel, submit));
  const dialog = h(
    "dialog",
    { "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-what` },
    h("article", {}, h("h2", { id: `${id}-title` }, title), h("div", { id: `${id}-what`, class: "what" }, what), form),
  );
  const outcome = run(dialog, form, submit, trouble, act);
  onOpen(form);
  return outcome;
}

function run(dialog, form, submit, trouble, act) {
  return new Promise((resolve) => {
    let outcome = null;
    form.onsubmit = async (event) => {
      event.preventDefault();
      submit.disabled = true; // or pressing Enter twice orders twice
      submit.setAttribute("aria-busy", "true");
      trouble.hidden = true;
      try {
        outcome = (await act(new FormData(form))) ?? true;
        dialog.close();
      } catch (error) {
        trouble.textContent = sentence(error.message);
        trouble.hidden = false;
      } finally {
        submit.disabled = false;
        submit.removeAttribute("aria-busy");
        if (!dialog.contains(document.activeElement)) submit.focus(); // a disabled button loses it
      }
    };
    dialog.onclose = () => {
      dialog.remove();
      resolve(outcome);
    };
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function notify(text) {
  const notices = document.getElementById("notices");
  const close = button("Close", () => notice.remove(), "link");
  const notice = h("p", { class: "notice" }, h("span", {}, text), close);
  notices.append(notice);
  setTimeout(() => notice.remove(), 10_000);
}

/** Text of a dialog that changes while it is open. */
export function changingText() {
  const element = h("p", { "aria-live": "polite" });
  return { element, say: (...children) => patch(element, ...children) };
}
