// The pages of a product: how many are looking, and who is at the form.

import { enter, Refusal } from "flagon/rooms";
import { _, ngettext } from "flagon/texts";

const element = document.querySelector("[data-lookers]");
const { product } = element.closest("[data-product]").dataset;
const form = document.querySelector("[data-held]");
let token = "";
let renewal = 0;

const room = enter(`products/${product}`, ({ count, lock }) => {
  const words = [];
  if (count > 1) words.push(ngettext("%(num)s person is looking at this.", "%(num)s people are looking at this.", count));
  // Our own is no news.
  const name = lock?.name ?? _("Somebody else");
  if (lock && !token) words.push(_("%(name)s is editing it.", { name }));
  element.textContent = words.join(" ");
  element.hidden = !words.length;
});

// The lock is advice: what counts is that the product has not changed when it is saved.
async function hold() {
  clearTimeout(renewal);
  try {
    const lock = await room.say("lock", token && { token });
    token = lock.token;
    await room.say("activity", { activity: "editing" });
    renewal = setTimeout(hold, lock.expires_in_seconds * 300);
  } catch (error) {
    // Refused: tried again below. All else is a fault of this program.
    if (!(error instanceof Refusal)) throw error;
    if (error.problem.status === 409) token = "";
    renewal = setTimeout(hold, 5_000);
  }
}

async function release() {
  clearTimeout(renewal);
  const mine = token;
  token = "";
  try {
    await room.say("activity", { activity: "viewing" });
    if (mine) await room.say("unlock", { token: mine });
  } catch (error) {
    // Without a connection the lock ends by itself. All else is a fault of this program.
    if (!(error instanceof Refusal)) throw error;
  }
}

form?.addEventListener("focusin", (event) => {
  if (!form.contains(event.relatedTarget)) hold();
});
form?.addEventListener("focusout", (event) => {
  if (!form.contains(event.relatedTarget) && document.hasFocus()) release();
});
