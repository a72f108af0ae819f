// A form for an upload: a file can be dropped on it, and its name and size are shown.

import { _, number } from "flagon/texts";

const form = document.querySelector("[data-drop]");
const area = form.querySelector(".drop");
const input = form.querySelector("input[type=file]");
const chosen = form.querySelector("[data-chosen]");
const button = form.querySelector("button[type=submit]");
const words = button.textContent;

function size(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  let step = 0;
  while (bytes >= 1000 && step < 3) { bytes /= 1000; step += 1; }
  return `${number(bytes, { maximumFractionDigits: 1 })} ${units[step]}`;
}

function show() {
  const [file] = input.files;
  if (file) chosen.textContent = `${file.name}, ${size(file.size)}`;
}

for (const name of ["dragenter", "dragover"]) {
  area.addEventListener(name, (event) => { event.preventDefault(); area.classList.add("drop--over"); });
}
for (const name of ["dragleave", "drop"]) {
  area.addEventListener(name, () => area.classList.remove("drop--over"));
}
area.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) { input.files = event.dataTransfer.files; show(); }
});
input.addEventListener("change", show);
form.addEventListener("submit", () => { button.disabled = true; button.textContent = _("Uploading…"); });
window.addEventListener("pageshow", () => { button.disabled = false; button.textContent = words; });
