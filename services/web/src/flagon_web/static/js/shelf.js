// Shelves: live prices and stock, and more products without leaving the page.

import { follow } from "flagon/live";
import { mark, pageOf, renew, stockWords } from "flagon/page";
import { _, money } from "flagon/texts";

const MOST_TOPICS = 20;
const LINES = 5;
const ticker = document.querySelector("[data-ticker]");
const ids = () => [...document.querySelectorAll(".book[data-product]")].map((book) => book.dataset.product);

// The home page tells of every change; other lists follow what they show.
function topics() {
  const shown = ids();
  if (ticker || shown.length > MOST_TOPICS) return ["products"];
  return shown.map((id) => `products/${id}`);
}

function update(product) {
  for (const book of document.querySelectorAll(`.book[data-product="${CSS.escape(product.id)}"]`)) {
    if (Number(book.dataset.version) >= product.version) continue;
    book.dataset.version = product.version;
    const price = book.querySelector("[data-price]");
    const words = money(product.price_minor, product.currency);
    if (price.textContent !== words) { price.textContent = words; mark(price); }
    const stock = book.querySelector("[data-stock]");
    const [level, text] = stockWords(product);
    stock.textContent = text;
    stock.hidden = level === "many";
    stock.classList.toggle("book__stock--none", level === "none");
  }
}

// Shelves show what is for sale.
function take(product) {
  for (const book of document.querySelectorAll(`.book[data-product="${CSS.escape(product.id)}"]`)) {
    if (Number(book.dataset.version) < product.version) book.remove();
  }
}

// An import changes thousands of products: only the last few are drawn, once per frame.
let waiting = [];
function tell(product, changed) {
  if (!ticker) return;
  if (!waiting.length) requestAnimationFrame(draw);
  waiting.unshift({ product, changed });
  waiting.length = Math.min(waiting.length, LINES);
}

function draw() {
  const list = ticker.querySelector("[data-ticker-list]");
  for (const { product, changed } of waiting.reverse()) {
    list.querySelector(`[data-about="${CSS.escape(product.id)}"]`)?.remove();
    const line = document.createElement("li");
    line.dataset.about = product.id;
    const link = document.createElement("a");
    link.href = `/products/${encodeURIComponent(product.slug || product.id)}`;
    link.textContent = product.name;
    link.dir = "auto";
    const what = document.createElement("span");
    what.className = "ticker__what num";
    const price = money(product.price_minor, product.currency);
    // Not by the version: a product can be reviewed before anybody edits it.
    if (changed.includes("id")) what.textContent = _("new, %(price)s", { price });
    else if (changed.includes("price_minor")) what.textContent = _("now %(price)s", { price });
    else if (changed.includes("stock")) what.textContent = stockWords(product)[1];
    else if (changed.includes("rating")) what.textContent = _("reviewed");
    else what.textContent = _("updated");
    line.append(link, what);
    list.prepend(line);
  }
  waiting = [];
  while (list.children.length > LINES) list.lastElementChild.remove();
  ticker.hidden = false;
}

let line = null;
if (topics().length) {
  line = follow(topics(), {
    onEvent(type, product) {
      if (!type.includes("product.changed")) return;
      if (product.status !== "active") return take(product);
      update(product);
      tell(product, product.changed ?? []);
    },
    onGap: () => renew("[data-shelf]"),
  });
}

// "Show more" brings the next page's products here; without this script it is a link.
document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a[data-more]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  link.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(link.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = pageOf(await answer.text(), answer.url);
    const fresh = [...page.querySelectorAll("[data-shelf] > .book")];
    const known = new Set(ids());
    const added = fresh.filter((book) => !known.has(book.dataset.product));
    document.querySelector("[data-shelf]").append(...added);
    const next = page.querySelector("a[data-more]");
    if (next) { link.href = next.href; link.removeAttribute("aria-busy"); } else link.remove();
    added[0]?.querySelector("a")?.focus({ preventScroll: true });
    line?.widen(topics());
  } catch (error) {
    // Whatever went wrong here, the link itself leads to the same products.
    console.warn(error);
    location.href = link.href;
  }
});
