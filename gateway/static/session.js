// Who is logged in. Looking needs nobody; each change needs the admin token once, then a cookie stands for it.

import { ask } from "./api.js";
import { askInDialog } from "./dialogs.js";
import { button, h, line } from "./dom.js";
import { changed, state } from "./state.js";

export async function loadSession() {
  state.session = await ask("api/session");
  changed();
}

/** Whether somebody is logged in, after they were asked to if need be. */
export async function requireAdmin() {
  await loadSession(); // a cookie ends after hours
  return state.session.is_admin || logIn();
}

const whereItIs = () => [
  "Changing anything needs the admin token of this pool. It is in the file ",
  h("code", {}, "<home>/admin-token"),
  " on the server, where <home> is the folder of the pool. For example: ",
  h("code", {}, "cat var/admin-token"),
];

/** Whether it succeeded. */
export async function logIn() {
  const outcome = await askInDialog({
    title: "Log in",
    what: h("p", {}, whereItIs()),
    fields: [
      line("Admin token", { name: "token", type: "password", required: true, spellcheck: "false" }),
      line("Your name", { name: "operator", required: true, maxlength: 64, value: state.session.operator ?? remembered() }),
      h("p", { class: "hint" }, "Your name is written down with everything that you order."),
    ],
    confirm: "Log in",
    act: async (form) => {
      const [token, operator] = [form.get("token").trim(), form.get("operator").trim()];
      await ask("api/session", { method: "POST", body: { token, operator } });
      localStorage.setItem("operator", operator);
      await loadSession();
    },
  });
  return outcome !== null && state.session.is_admin;
}

export async function logOut() {
  await ask("api/session", { method: "DELETE" });
  await loadSession();
}

function remembered() {
  return localStorage.getItem("operator") ?? "";
}

/** Fields of a dialog: who orders it, which is whoever is logged in, and why. */
export function whoAndWhy(example) {
  const name = h("strong", {}, state.session.operator);
  const change = async () => {
    if (await logIn()) name.textContent = state.session.operator;
  };
  return [
    line("Why", { name: "reason", maxlength: 500, placeholder: `such as: ${example}` }),
    h(
      "p",
      { class: "hint" },
      "Ordered by ",
      name,
      " (",
      button("somebody else", change, "link"),
      "). Who and why are kept in the journal.",
    ),
  ];
}
