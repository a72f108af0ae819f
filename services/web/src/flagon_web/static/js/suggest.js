// Products while somebody types, below the field of the search: a combobox as the ARIA
// Authoring Practices describe it. Without this script the field is a form, as it still is.

import { _, money, ngettext } from "flagon/texts";

const WAIT_MS = 180;
// Two letters or digits; signs alone are nothing to search for.
const ENOUGH = /[\p{L}\p{N}].*[\p{L}\p{N}]/u;
const MOST = 6;
const form = document.querySelector("form.search");
const input = form.querySelector("input[type=search]");
const list = form.querySelector("[data-suggestions]");
const told = form.querySelector("[data-suggestions-told]");

let timer = 0;
let asking = null;
let shown = "";
let active = -1;

input.setAttribute("role", "combobox");
input.setAttribute("aria-autocomplete", "list");
input.setAttribute("aria-controls", list.id);
input.setAttribute("aria-expanded", "false");

const options = () => [...list.children];
const open = () => !list.hidden;

function point(index) {
  const all = options();
  all[active]?.setAttribute("aria-selected", "false");
  active = index;
  const option = all[active];
  if (!option) return input.removeAttribute("aria-activedescendant");
  option.setAttribute("aria-selected", "true");
  input.setAttribute("aria-activedescendant", option.id);
  option.scrollIntoView({ block: "nearest" });
}

function close() {
  clearTimeout(timer);
  asking?.abort();
  point(-1);
  list.hidden = true;
  told.textContent = "";
  input.setAttribute("aria-expanded", "false");
}

// Accents make no difference to the search, so they make none here.
const folded = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

// The name with what was typed in <mark>: beginnings of words.
function marked(name, words) {
  const typed = folded(words).match(/[\p{L}\p{N}]+/gu) ?? [];
  const parts = document.createDocumentFragment();
  for (const word of name.normalize("NFC").match(/[\p{L}\p{N}\p{M}]+|[^\p{L}\p{N}\p{M}]+/gu) ?? []) {
    const found = typed.filter((one) => folded(word).startsWith(one)).sort((one, other) => other.length - one.length)[0];
    // Letters that are written with an accent are one each, as NFC has them.
    const length = found && folded(word).length === word.length ? found.length : found ? word.length : 0;
    if (length) {
      const mark = document.createElement("mark");
      mark.textContent = word.slice(0, length);
      parts.append(mark);
    }
    parts.append(word.slice(length));
  }
  return parts;
}

function option(product, words, index) {
  const item = document.createElement("li");
  item.id = `suggestion-${index}`;
  item.setAttribute("role", "option");
  item.setAttribute("aria-selected", "false");
  item.dataset.href = `/products/${encodeURIComponent(product.slug || product.id)}`;
  const name = document.createElement("span");
  name.dir = "auto";
  name.append(marked(product.name, words));
  const price = document.createElement("span");
  price.className = "num muted";
  price.textContent = money(product.price_minor, product.currency);
  item.append(name, price);
  return item;
}

function show(words, page) {
  list.replaceChildren(...page.items.map((product, index) => option(product, words, index)));
  shown = words;
  point(-1);
  list.hidden = page.items.length === 0;
  input.setAttribute("aria-expanded", String(open()));
  told.textContent = open()
    ? ngettext("%(num)s suggestion. Use the arrow keys.", "%(num)s suggestions. Use the arrow keys.", page.items.length)
    : _("No suggestions");
}

async function ask() {
  const words = input.value.trim();
  asking?.abort();
  if (!ENOUGH.test(words)) return close();
  if (words === shown && open()) return undefined;
  asking = new AbortController();
  const { signal } = asking;
  try {
    const query = new URLSearchParams({ q: words, limit: MOST, prefix: "true" });
    const answer = await fetch(`/api/v1/products?${query}`, { headers: { Accept: "application/json" }, signal });
    if (!answer.ok) return close();
    const page = await answer.json();
    // Somebody may have gone on typing, or away, while the answer was read.
    if (!signal.aborted && document.activeElement === input) show(words, page);
  } catch (error) {
    // Cancelled, or nobody answers: the form still searches.
    if (!signal.aborted) close();
    if (error.name !== "AbortError" && !(error instanceof TypeError)) throw error;
  }
  return undefined;
}

function soon() {
  clearTimeout(timer);
  asking?.abort();
  timer = setTimeout(ask, WAIT_MS);
}

input.addEventListener("input", (event) => { if (!event.isComposing) soon(); });
input.addEventListener("compositionend", soon);
input.addEventListener("blur", close);
form.addEventListener("submit", close);
input.addEventListener("keydown", (event) => {
  const all = options();
  if (event.isComposing) return;
  if (event.key === "ArrowDown" && !open()) { shown = ""; ask(); }
  else if (!open()) return;
  else if (event.key === "ArrowDown") point(active + 1 < all.length ? active + 1 : -1);
  else if (event.key === "ArrowUp") point(active < 0 ? all.length - 1 : active - 1);
  else if (event.key === "Escape") close();
  else if (event.key === "Enter" && active >= 0) location.href = all[active].dataset.href;
  else return;
  event.preventDefault();
});
// Before the field loses the focus, which would close the list under the finger.
list.addEventListener("mousedown", (event) => event.preventDefault());
list.addEventListener("click", (event) => {
  const chosen = event.target.closest("[role=option]");
  if (chosen) location.href = chosen.dataset.href;
});
