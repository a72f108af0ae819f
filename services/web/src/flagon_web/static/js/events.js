// The platform's events as they happen: one connection for all parts of a page that listen.
//
//   import { subscribe } from "flagon/events";
//
//   const line = subscribe({
//     topics: ["products/1"],           // as GET /api/v1/events names them; "products/*" too
//     types: ["market.flagon.product.changed.v1"],
//     onEvent(type, data, envelope) {}, // data: the resource, as its API shows it
//     onGap() {},                       // events were missed: read the state anew
//     onState(state, reason) {},        // see below
//     fresh: true,                      // false: what the page shows may be older than its
//   });                                 // first connection; then onGap may come with that
//   line.change(["products/2"]);        // other topics from now on
//   line.stop();
//
// States: "connecting"; "on"; "lost" (for longer than a restart takes; it goes on trying);
// "paused" (the page is hidden); "refused" (asking again would not help; the reason is the
// status: 401 means that the person is signed out). The reason of the others is what the
// server said when it closed: "restart", "age", "behind", "token-expired", …
//
// Nothing is missed in silence. The browser resumes a broken EventSource by itself; where
// it gives up, after an answer other than 200, this asks why, waits (longer each time, and
// never all pages at once) and resumes after the last event. The next page in the tab goes
// on from there as well. Where no id is known, onGap is called.

const DEFAULTS = {
  url: "/api/v1/events",
  hiddenMs: 20_000, // a hidden page gives its connection back after this
  lostMs: 1_500, // a restart is nobody's business
  firstPauseMs: 1_000,
  longestPauseMs: 30_000,
  mostTopics: 20, // of one stream; more are asked for as "family/*"
  storageKey: "flagon:events",
  keptMs: 600_000, // between two pages; older positions would bring too much
};
const AGAIN = new Set([408, 425, 429, 500, 502, 503, 504]);

const loaded = document.readyState === "complete" ? Promise.resolve() : new Promise((done) => {
  // The second one for who is imported between the two.
  for (const type of ["DOMContentLoaded", "load"]) addEventListener(type, done, { once: true });
});

export class Channel {
  #options;
  #lines = new Set();
  #source = null;
  #asked = "";
  #last = "";
  #resumes = false;
  #attempt = 0;
  #planned = false;
  #state = "connecting";
  #reason = "";
  #timers = { retry: 0, lost: 0, hidden: 0 };
  #leaving = new AbortController();

  constructor(options = {}) {
    this.#options = { ...DEFAULTS, ...options };
    this.#last = this.#recall();
    const until = { signal: this.#leaving.signal };
    document.addEventListener("visibilitychange", () => this.#seen(), until);
    // A network that is gone says nothing, so a stream would look alive for long.
    addEventListener("offline", () => { this.#close(); this.#lose("offline"); }, until);
    addEventListener("online", () => this.#reopen(), until);
    addEventListener("pagehide", () => { this.#close(); this.#keep(); }, until);
    addEventListener("pageshow", (event) => { if (event.persisted) this.#reopen(); }, until);
  }

  get lastEventId() { return this.#last; }

  subscribe({ topics, types, onEvent, onGap = () => {}, onState = () => {}, fresh = true }) {
    const line = { topics: [...topics], types: [...types], onEvent, onGap, onState, behind: !fresh };
    this.#lines.add(line);
    onState(this.#state, this.#reason);
    this.#plan();
    return {
      change: (other) => { line.topics = [...other]; this.#plan(); },
      stop: () => { this.#lines.delete(line); this.#plan(); },
    };
  }

  // End it for good.
  stop() {
    this.#lines.clear();
    this.#leaving.abort();
    this.#close();
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
  }

  // What all scripts of a page ask for while it is loaded becomes one connection, and
  // later what is asked for in one go.
  #plan() {
    if (this.#planned) return;
    this.#planned = true;
    loaded.then(() => {
      this.#planned = false;
      if (this.#query() !== this.#asked || !this.#source) this.#reopen();
    });
  }

  #query() {
    let topics = new Set([...this.#lines].flatMap((line) => line.topics));
    if (topics.size > this.#options.mostTopics) {
      topics = new Set([...topics].map((topic) => topic.replace(/^([^/]+)\/.*$/, "$1/*")));
    }
    const types = new Set([...this.#lines].flatMap((line) => line.types));
    const pairs = [...topics].sort().map((topic) => ["topic", topic]);
    if (types.size <= this.#options.mostTopics) pairs.push(...[...types].sort().map((type) => ["type", type]));
    return topics.size ? new URLSearchParams(pairs).toString() : "";
  }

  #reopen() {
    clearTimeout(this.#timers.retry);
    this.#close();
    this.#asked = this.#query();
    if (!this.#asked || document.visibilityState === "hidden" && this.#state === "paused") return;
    const last = this.#last && `&last_event_id=${encodeURIComponent(this.#last)}`;
    this.#resumes = Boolean(last);
    const source = new EventSource(`${this.#options.url}?${this.#asked}${last}`);
    this.#source = source;
    if (this.#state === "paused" || this.#state === "refused") this.#tell("connecting");
    source.onopen = () => this.#found();
    source.onerror = () => {
      if (source !== this.#source) return;
      this.#lose(this.#reason);
      if (source.readyState === EventSource.CLOSED) this.#ask();
    };
    source.addEventListener("close", (message) => { this.#note(message); this.#reason = parse(message.data).reason ?? ""; });
    source.addEventListener("gap", (message) => {
      this.#note(message);
      for (const line of [...this.#lines]) attempt(line.onGap);
    });
    for (const type of new Set([...this.#lines].flatMap((line) => line.types))) {
      source.addEventListener(type, (message) => this.#deliver(type, message));
    }
  }

  #deliver(type, message) {
    this.#note(message);
    const envelope = parse(message.data);
    const at = envelope.topics ?? [];
    for (const line of [...this.#lines]) {
      if (line.types.includes(type) && line.topics.some((topic) => at.some((one) => within(one, topic)))) {
        attempt(() => line.onEvent(type, envelope.data ?? {}, envelope));
      }
    }
  }

  #note(message) { this.#last = message.lastEventId || this.#last; }

  #found() {
    clearTimeout(this.#timers.lost);
    this.#timers.lost = 0;
    this.#attempt = 0;
    this.#reason = "";
    this.#tell("on");
    for (const line of [...this.#lines]) {
      const missed = line.behind && !this.#resumes;
      line.behind = false;
      if (missed) attempt(line.onGap);
    }
    // From here on the browser knows a position, and resumes from it.
    this.#resumes = true;
  }

  #lose(reason) {
    this.#reason = reason;
    this.#timers.lost ||= setTimeout(() => this.#tell("lost"), this.#options.lostMs);
  }

  // The browser has given up, and does not say why.
  async #ask() {
    const source = this.#source;
    const reason = this.#reason;
    let status = 0;
    let least = 0;
    try {
      const answer = await fetch(source.url, { method: "HEAD", cache: "no-store", credentials: "same-origin" });
      status = answer.status;
      least = 1_000 * (Number(answer.headers.get("Retry-After")) || 0);
    } catch (error) {
      // What fetch says when nobody answers; the next attempt will tell.
      if (!(error instanceof TypeError)) throw error;
    }
    if (source !== this.#source) return;
    // The kept position may be of another installation: better none than no events.
    const foreign = status === 422 && this.#last !== "";
    if (foreign) this.#last = "";
    this.#close();
    if (status >= 400 && !AGAIN.has(status) && !foreign) {
      clearTimeout(this.#timers.lost);
      this.#timers.lost = 0;
      this.#reason = String(status);
      this.#tell("refused");
      return;
    }
    if (status !== 200) this.#reason = String(status || "unreachable");
    // Said before the reason was known: say it again with it.
    if (this.#state === "lost" && this.#reason !== reason) this.#tell("lost");
    const { firstPauseMs, longestPauseMs } = this.#options;
    const longest = Math.min(longestPauseMs, firstPauseMs * 2 ** this.#attempt);
    this.#attempt += 1;
    const pause = Math.max(least, longest * (0.5 + Math.random() / 2));
    this.#timers.retry = setTimeout(() => this.#reopen(), pause);
  }

  #close() {
    clearTimeout(this.#timers.retry);
    if (!this.#source) return;
    this.#source.close();
    this.#source = null;
    // Without an id nobody can tell what happens until the next connection.
    if (!this.#last) for (const line of this.#lines) line.behind = true;
  }

  #seen() {
    clearTimeout(this.#timers.hidden);
    if (document.visibilityState === "hidden") {
      this.#timers.hidden = setTimeout(() => {
        clearTimeout(this.#timers.lost);
        this.#timers.lost = 0;
        this.#close();
        this.#tell("paused");
      }, this.#options.hiddenMs);
    } else if (!this.#source) {
      // Who comes back, from signing in as well, does not wait for the pause.
      this.#reopen();
    }
  }

  #tell(state) {
    this.#state = state;
    for (const line of [...this.#lines]) attempt(() => line.onState(state, this.#reason));
  }

  #keep() {
    if (!this.#last) return;
    try {
      sessionStorage.setItem(this.#options.storageKey, JSON.stringify({ id: this.#last, at: Date.now() }));
    } catch (error) {
      // Private windows may have no storage, or a full one: the page goes on without.
      if (!(error instanceof DOMException)) throw error;
    }
  }

  #recall() {
    try {
      const { id, at } = JSON.parse(sessionStorage.getItem(this.#options.storageKey)) ?? {};
      return Date.now() - at < this.#options.keptMs ? id : "";
    } catch (error) {
      // No storage, or something else than we have put there.
      if (!(error instanceof DOMException || error instanceof SyntaxError)) throw error;
      return "";
    }
  }
}

// Whether an event's topic is part of what was asked for. An account's own topics are
// called users/<account>/jobs/7 inside, and jobs/7 or me by who asks.
function within(topic, asked) {
  const own = topic.startsWith("users/") ? topic.split("/").slice(2).join("/") || "me" : topic;
  if (asked.endsWith("/*")) return topic.startsWith(asked.slice(0, -1)) || own.startsWith(asked.slice(0, -1));
  return topic === asked || own === asked;
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return {};
  }
}

// What goes wrong in one part of a page is not the others' matter.
function attempt(work) {
  try { work(); } catch (error) { reportError(error); }
}

let channel;
export function subscribe(wanted) {
  channel ??= new Channel();
  return channel.subscribe(wanted);
}
