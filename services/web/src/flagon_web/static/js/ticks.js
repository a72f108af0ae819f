// A list with boxes to tick: all at once, and how many there are.

import { ngettext } from "flagon/texts";

const form = document.querySelector("[data-ticks]");
const all = form?.querySelector("[data-all] input");

function show() {
  const boxes = [...form.querySelectorAll("tbody [type=checkbox]")];
  const ticked = boxes.filter((box) => box.checked).length;
  all.checked = ticked === boxes.length;
  all.indeterminate = ticked > 0 && ticked < boxes.length;
  form.querySelector("[data-ticked]").textContent = ticked ? ngettext("%(num)s ticked", "%(num)s ticked", ticked) : "";
}

if (form) {
  form.querySelector("[data-all]").hidden = false;
  form.addEventListener("change", (event) => {
    if (event.target === all) for (const box of form.querySelectorAll("tbody [type=checkbox]")) box.checked = all.checked;
    show();
  });
  // A browser that goes back to the page ticks what was ticked.
  addEventListener("pageshow", show);
}
