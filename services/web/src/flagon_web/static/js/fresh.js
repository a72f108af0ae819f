// Lists without events of their own look again every few seconds while somebody looks
// at them, but not under the hands of who is about to press a button.

import { renew } from "flagon/page";

const EVERY_MS = 5_000;

setInterval(() => {
  const part = document.querySelector("[data-fresh]");
  const busy = part.querySelector(":focus, details[open]") || !getSelection().isCollapsed;
  if (document.visibilityState === "visible" && !busy) renew("[data-fresh]");
}, EVERY_MS);
