// Follows events for a page, and shows people how the connection is.

import { subscribe } from "flagon/events";
import { _ } from "flagon/texts";

// What the pages show of each family of topics.
const TYPES = {
  products: ["market.flagon.product.changed.v1", "market.flagon.product.deleted.v1"],
  jobs: ["market.flagon.job.changed.v1", "market.flagon.job.progressed.v1"],
  me: ["market.flagon.price.dropped.v1"],
};
const WORDS = {
  on: _("Live"),
  connecting: _("Connecting…"),
  lost: _("Connection lost. Reconnecting…"),
  paused: _("Paused"),
  refused: _("Not live. Sign in again to see changes."),
};
const POLL_MS = 4_000;

function show(state) {
  for (const element of document.querySelectorAll("[data-live]")) {
    element.hidden = false;
    if (element.dataset.state === state) continue;
    element.dataset.state = state;
    element.querySelector("[data-live-text]").textContent = WORDS[state];
  }
}

// Follow topics until the page goes away; what is not said here is as in events.js.
//   Without a connection onGap is called every few seconds: the page polls.
export function follow(topics, { onEvent, onGap, fresh = true }) {
  let poll = 0;
  const line = subscribe({
    topics,
    types: [...new Set(topics.flatMap((topic) => TYPES[topic.split("/")[0]]))],
    onEvent,
    onGap,
    fresh,
    onState(state) {
      show(state);
      if (state === "lost") poll ||= setInterval(onGap, POLL_MS);
      else { clearInterval(poll); poll = 0; }
    },
  });
  return {
    stop() { clearInterval(poll); line.stop(); },
    widen: line.change,
  };
}
