// A secret that is shown once: copied by a button, and gone from the page that the
// browser would keep for its Back button.

import "flagon/page";
import { _ } from "flagon/texts";

const secret = document.querySelector("#secret");
const button = document.querySelector("[data-copy]");
button.hidden = !navigator.clipboard;
button.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(secret.textContent);
    button.textContent = _("Copied");
  } catch (error) {
    // The person said no to the clipboard: then they copy it by hand.
    if (!(error instanceof DOMException)) throw error;
    getSelection().selectAllChildren(secret);
  }
});
addEventListener("pagehide", () => { secret.textContent = ""; });
