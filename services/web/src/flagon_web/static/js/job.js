// The job page: progress as it happens, then the result.

import { follow } from "flagon/live";
import { renew } from "flagon/page";
import { _, number } from "flagon/texts";

const FINISHED = ["succeeded", "failed", "cancelled"];
// Words of the worker that people read.
const TERMS = { rows: _("rows"), products: _("products") };
const HISTORY_MS = 3_000;
const place = () => document.querySelector("#job");
const id = place().dataset.job;

function finished() {
  return FINISHED.includes(place().dataset.state);
}

function update(job) {
  const element = place();
  if (job.id !== id || Number(element.dataset.version) > job.version) return;
  if (job.state !== element.dataset.state) {
    // Another state shows other parts; the server knows which.
    renewAndMaybeStop();
    if (FINISHED.includes(job.state)) return;
  }
  element.dataset.version = job.version;
  const { done = 0, total, unit = "", message = "" } = job.progress ?? {};
  const values = { done: number(done), total: number(total ?? 0), unit: TERMS[unit] ?? unit };
  const bar = element.querySelector("[data-bar]");
  if (bar && total) { bar.max = 100; bar.value = Math.min(100, (done * 100) / total); }
  const count = element.querySelector("[data-count]");
  if (count) count.textContent = total ? _("%(done)s of %(total)s %(unit)s", values) : `${values.done} ${values.unit}`;
  const words = element.querySelector("[data-message]");
  if (words && message) words.textContent = TERMS[message] ?? message;
  soon();
}

// What it did and said meanwhile, every few seconds while it works.
let waiting = 0;
function soon() {
  waiting ||= setTimeout(async () => {
    waiting = 0;
    // Not under the hands of somebody who reads or marks a line.
    if (!document.querySelector("#history :focus") && getSelection().isCollapsed) await renew("#history");
  }, HISTORY_MS);
}

async function renewAndMaybeStop() {
  // What arrives while the page is read makes it old again: try until it is done.
  // Another event of the same change may have brought the end meanwhile.
  for (let attempt = 0; attempt < 5 && !finished(); attempt += 1) {
    if (await renew("#job", "#history")) break;
    await new Promise((resolve) => setTimeout(resolve, 400 * (attempt + 1)));
  }
  if (finished()) {
    line.stop();
    for (const live of document.querySelectorAll("[data-live]")) live.hidden = true;
  }
}

let line = { stop() {} };
if (!finished()) {
  line = follow([`jobs/${id}`], {
    onEvent: (type, job) => { if (type.includes(".job.")) update(job); },
    onGap: renewAndMaybeStop,
    // Between the page being made and the stream being open something may have happened.
    fresh: false,
  });
}
