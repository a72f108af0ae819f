// Pictures of a product are sent without leaving the page, so that what somebody is writing
// in the form above stays, and with a bar that says how far it is.

import { pageOf } from "flagon/page";
import { _ } from "flagon/texts";

const form = document.querySelector("[data-upload]");
const bar = form.querySelector("[data-sent]");
const told = form.querySelector("[data-told]");
const button = form.querySelector("button[type=submit]");
const hint = form.querySelector("[data-chosen]");
const words = [button.textContent, hint.textContent];

function say(text, tone = "field__hint") {
  told.textContent = text;
  told.className = tone;
  told.hidden = !text;
}

// Exchange the list for the one of the page that came back; what is being written stays.
function take(page) {
  document.querySelector("[data-pictures]").replaceWith(page.querySelector("[data-pictures]"));
  // A new picture makes a new version, which is nobody else's.
  const fresh = page.querySelector("[data-product]").dataset.version;
  document.querySelector("[data-product]").dataset.version = fresh;
  form.reset();
  form.elements.key.value = page.querySelector("[data-upload] [name=key]").value;
  hint.textContent = words[1];
}

function end(request, stale) {
  bar.hidden = true;
  button.disabled = false;
  button.textContent = words[0];
  // Nobody answered: as good as a page that says nothing.
  const page = pageOf(request.responseText ?? "", request.responseURL || location.href);
  const why = page.querySelector("[data-why]");
  if (request.status === 200 && page.querySelector("[data-upload]")) {
    take(page);
    document.querySelector("[data-stale]").hidden = stale;
    say(page.querySelector(".note--success")?.textContent.trim() ?? "");
  } else if (request.status === 200) {
    // Another page: the session has ended.
    location.reload();
  } else if (request.status === 413) say(_("The picture is too large."), "field__error");
  else say(why?.textContent.trim() || _("The picture could not be sent."), "field__error");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const { hidden } = document.querySelector("[data-stale]");
  const request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.setRequestHeader("Accept", "text/html");
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    bar.value = total ? (100 * loaded) / total : 0;
    if (loaded === total) say(_("It is being drawn…"));
  });
  request.addEventListener("loadend", () => end(request, hidden));
  say("");
  bar.value = 0;
  bar.hidden = false;
  request.send(new FormData(form));
});
