// A live connection to /api/v1/events that says how it is and comes back by itself.
//
// The browser repeats a broken EventSource on its own, but gives up after an HTTP error,
// and holds one of its six connections per host for every tab. So a source that was
// given up is opened again with a growing pause, and a tab in the background lets go of
// its own; both resume after the last event they saw.

const TYPES = [
  "market.flagon.product.changed.v1",
  "market.flagon.product.deleted.v1",
  "market.flagon.job.changed.v1",
  "market.flagon.job.progressed.v1",
];
const WORDS = { on: "Live", connecting: "Connecting…", lost: "Connection lost. Reconnecting…" };
const HIDDEN_MS = 20_000;
const LOST_MS = 1_500;
const POLL_MS = 4_000;
const LONGEST_PAUSE_MS = 15_000;

// Follow topics until the page goes away.
//   onEvent(type, data): data is the resource, as the API shows it.
//   onGap(): events were missed; what the page shows must be read again.
//   Without a connection onGap is called every few seconds: the page polls.
//   fresh: false calls onGap as soon as the stream is open for the first time.
export function follow(topics, { onEvent, onGap, fresh = true }) {
  let source = null;
  let last = "";
  let pause = 1_000;
  let timers = { retry: 0, lost: 0, poll: 0, hidden: 0 };
  let stopped = false;
  let missed = !fresh;

  function show(state) {
    for (const element of document.querySelectorAll("[data-live]")) {
      element.hidden = false;
      if (element.dataset.state === state) continue;
      element.dataset.state = state;
      element.querySelector("[data-live-text]").textContent = WORDS[state];
    }
  }

  function lose() {
    // A short break, as when a server restarts, is nobody's business.
    timers.lost ||= setTimeout(() => {
      show("lost");
      missed = true;
      timers.poll ||= setInterval(onGap, POLL_MS);
    }, LOST_MS);
  }

  function found() {
    clearTimeout(timers.lost);
    clearInterval(timers.poll);
    timers.lost = timers.poll = 0;
    pause = 1_000;
    show("on");
    // Without a position to resume from, nobody can tell what happened meanwhile.
    if (missed && !last) onGap();
    missed = false;
  }

  function open() {
    clearTimeout(timers.retry);
    close();
    if (stopped) return;
    const query = new URLSearchParams(topics.map((topic) => ["topic", topic]));
    if (last) query.set("last_event_id", last);
    source = new EventSource(`/api/v1/events?${query}`);
    source.onopen = found;
    source.onerror = () => {
      lose();
      if (source.readyState === EventSource.CLOSED) {
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
        timers.retry = setTimeout(open, pause * (0.5 + Math.random() / 2));
      }
    };
    for (const type of TYPES) {
      source.addEventListener(type, (message) => {
        last = message.lastEventId || last;
        let envelope;
        try { envelope = JSON.parse(message.data); } catch { return; }
        onEvent(type, envelope.data ?? {}, envelope);
      });
    }
    source.addEventListener("gap", (message) => {
      last = message.lastEventId || last;
      onGap();
    });
  }

  function close() {
    source?.close();
    source = null;
  }

  function stop() {
    stopped = true;
    close();
    for (const timer of Object.values(timers)) { clearTimeout(timer); clearInterval(timer); }
    timers = { retry: 0, lost: 0, poll: 0, hidden: 0 };
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(timers.hidden);
    if (document.visibilityState === "hidden") timers.hidden = setTimeout(close, HIDDEN_MS);
    else if (!source && !stopped) { missed = !last; open(); }
  });
  // A network that is gone says nothing, so a stream would look alive for long.
  window.addEventListener("offline", () => { lose(); close(); });
  window.addEventListener("online", () => { if (!source && !stopped) open(); });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted && !stopped) { missed = true; open(); onGap(); }
  });

  show("connecting");
  open();
  return { stop, widen(more) { topics = more; open(); } };
}
