// Tells people on every page of the shop that a price they watch fell.

import { subscribe } from "flagon/events";
import { _, money } from "flagon/texts";

const TYPE = "market.flagon.price.dropped.v1";
const MOST = 3;
const place = document.querySelector("[data-drops]");
const told = new Set();

function tell(drop) {
  // After a broken connection an event may come twice.
  if (told.has(drop.id)) return;
  told.add(drop.id);
  const note = document.createElement("div");
  note.className = "note note--success";
  const words = document.createElement("div");
  const link = document.createElement("a");
  link.href = `/products/${encodeURIComponent(drop.slug || drop.product_id)}`;
  link.textContent = drop.name;
  link.dir = "auto";
  const price = money(drop.price_minor, drop.currency);
  const was = money(drop.previous_price_minor, drop.currency);
  words.append(link, " ", _("now %(price)s instead of %(was)s", { price, was }));
  const close = document.createElement("button");
  close.type = "button";
  close.className = "button button--quiet";
  close.textContent = _("Close");
  close.addEventListener("click", () => note.remove());
  note.append(words, close);
  place.prepend(note);
  while (place.children.length > MOST) place.lastElementChild.remove();
}

const line = subscribe({
  topics: ["me"],
  types: [TYPE],
  onEvent: (type, drop) => tell(drop),
  // Signed out, or auth is away: what the page follows besides is told to strangers, too.
  onState(state) { if (state === "refused") queueMicrotask(() => line.stop()); },
});
