// What several pages need: stock and times as people write them, and fresh parts.

import { _, ngettext, times } from "flagon/texts";

export function stockWords({ stock, available = stock }) {
  if (available <= 0) return ["none", _("Sold out")];
  if (available <= 3) return ["few", ngettext("Only %(num)s left", "Only %(num)s left", available)];
  return ["many", ngettext("%(num)s in stock", "%(num)s in stock", available)];
}

// Give an element a moment's highlight.
export function mark(element) {
  element.classList.remove("changed");
  void element.offsetWidth;
  element.classList.add("changed");
}

// Times as the person's own clock shows them.
export function localTimes(root = document) {
  const format = times();
  for (const element of root.querySelectorAll("time[data-moment]")) {
    element.title = element.dateTime;
    element.textContent = format.format(new Date(element.dateTime));
  }
}

// The one way from text to elements, which the pages' policy holds all scripts to: pages of
// this site, read into a document of their own in which nothing runs.
const own = {
  createHTML(text, address) {
    if (new URL(address).origin !== location.origin) throw new Error(`not a page of ours: ${address}`);
    return text;
  },
};
const policy = globalThis.trustedTypes?.createPolicy("flagon", own) ?? own;

export function pageOf(text, address) {
  return new DOMParser().parseFromString(policy.createHTML(text, address), "text/html");
}

// What makes a control the same one in a fresh part: how it looks and what it acts on.
function face(control) {
  const form = control.form ?? control.closest("details")?.querySelector("form");
  const words = control.matches("a, button, summary") ? control.textContent : "";
  return [control.cloneNode(false).outerHTML, form?.getAttribute("action"), words].join("\n");
}

// Put a fresh part into the place of the present one; the focus, and what was unfolded,
// stay where they are. Without that a keyboard is sent back to the top of the page.
function exchange(present, fresh) {
  const twin = (control) =>
    [...fresh.querySelectorAll(control.localName)].find((one) => face(one) === face(control));
  const held = present.contains(document.activeElement) ? document.activeElement : null;
  for (const summary of present.querySelectorAll("details[open] > summary")) {
    const folded = twin(summary)?.closest("details");
    if (folded) folded.open = true;
  }
  const next = held && twin(held);
  present.replaceWith(fresh);
  next?.focus({ preventScroll: true });
}

// Read this page again and exchange parts of it; false when that is not possible.
let reading = false;
export async function renew(...selectors) {
  // What a form was answered with is at no address of its own.
  if (reading || "answer" in document.documentElement.dataset) return false;
  reading = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (!answer.ok || answer.redirected) return false;
    const page = pageOf(await answer.text(), answer.url);
    const parts = selectors.map((selector) => [document.querySelector(selector), page.querySelector(selector)]);
    if (!parts.every(([present, fresh]) => present && fresh)) return false;
    for (const [present, fresh] of parts) {
      const live = present.querySelector("[data-live]");
      exchange(present, fresh);
      // The state of the connection is the page's, not the server's.
      if (live) fresh.querySelector("[data-live]")?.replaceWith(live);
      localTimes(fresh);
    }
    return true;
  } catch (error) {
    // What fetch says when nobody answers; the caller tries again later.
    if (!(error instanceof TypeError)) throw error;
    return false;
  } finally {
    reading = false;
  }
}

localTimes();
