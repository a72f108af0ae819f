// Follows events for a page, and shows people how the connection is.

import { subscribe } from "flagon/events";
import { _ } from "flagon/texts";

const TYPES = [
  "market.flagon.product.changed.v1",
  "market.flagon.product.deleted.v1",
  "market.flagon.job.changed.v1",
  "market.flagon.job.progressed.v1",
];
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
    types: TYPES.filter((type) => topics.some((topic) => type.includes(`.${topic.split("/")[0].slice(0, -1)}.`))),
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
