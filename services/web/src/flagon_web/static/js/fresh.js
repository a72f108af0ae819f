// Lists without events of their own look again every few seconds (data-fresh says how
// many, else five) while somebody looks at them, but not under the hands of who is about
// to press a button.

import { renew } from "flagon/page";

const USUAL_SECONDS = 5;
const seconds = Number(document.querySelector("[data-fresh]").dataset.fresh) || USUAL_SECONDS;

setInterval(() => {
  const part = document.querySelector("[data-fresh]");
  const busy = part.querySelector(":focus, details[open]") || !getSelection().isCollapsed;
  if (document.visibilityState === "visible" && !busy) renew("[data-fresh]");
}, seconds * 1_000);
