// Who else is here: rooms over one WebSocket, with as much of Socket.IO 5 as that takes.
//
//   import { enter } from "flagon/rooms";
//
//   const room = enter("products/1", (told) => {});   // {room, count}; for those who work
//                                                     // there people and lock as well
//   await room.say("lock", {});                       // its answer; throws a Refusal
//   room.leave();
//
// It comes back by itself, after longer pauses each time and when the server says so. A page
// that is hidden is looked at by nobody: it leaves, and enters again. Where there is no
// WebSocket nothing happens, and the page is as it was.

const PATH = "/socket.io/?EIO=4&transport=websocket";
const HIDDEN_MS = 20_000;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;

export class Refusal extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title);
    this.problem = problem;
  }
}

const rooms = new Map(); // what to call when somebody comes or goes, by room
const answers = new Map(); // whom to give an answer, by the number of the question
let socket = null;
let greeted = false;
let asked = 0;
let attempt = 0;
let pause = null; // that the server asked for
let longestSilence = 60_000;
const timers = { again: 0, hidden: 0, silence: 0 };

export function enter(name, onChange) {
  rooms.set(name, onChange);
  if (greeted) join(name);
  else open();
  return {
    say: (message, content) => ask(message, { room: name, ...content }),
    leave() {
      rooms.delete(name);
      if (greeted) ask("leave", { room: name }).catch(ignore);
      if (!rooms.size) close();
    },
  };
}

function open() {
  clearTimeout(timers.again);
  if (socket || !rooms.size || document.visibilityState === "hidden" || !navigator.onLine) return;
  const address = new URL(PATH, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const mine = new WebSocket(address);
  socket = mine;
  mine.onmessage = ({ data }) => { if (mine === socket) take(data); };
  mine.onclose = () => { if (mine === socket) lose(); };
}

function close() {
  const mine = socket;
  socket = null;
  forget();
  if (!mine) return;
  // Ended before it has begun, the browser would warn of a failure.
  if (mine.readyState === WebSocket.CONNECTING) mine.onopen = () => mine.close();
  else mine.close();
}

function forget() {
  greeted = false;
  clearTimeout(timers.silence);
  for (const { reject } of answers.values()) reject(new Refusal({ title: "disconnected" }));
  answers.clear();
}

function lose() {
  socket = null;
  forget();
  const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempt);
  attempt += 1;
  // Never all pages at once.
  timers.again = setTimeout(open, pause ?? longest * (0.5 + Math.random() / 2));
  pause = null;
}

// One packet of Engine.IO, and in it one of Socket.IO.
function take(text) {
  clearTimeout(timers.silence);
  timers.silence = setTimeout(() => { close(); lose(); }, longestSilence);
  if (text === "2") socket.send("3");
  else if (text.startsWith("0")) {
    const { pingInterval, pingTimeout } = JSON.parse(text.slice(1));
    longestSilence = pingInterval + pingTimeout;
    socket.send("40");
  } else if (text.startsWith("40")) {
    greeted = true;
    attempt = 0;
    for (const name of rooms.keys()) join(name);
  } else if (text.startsWith("42")) {
    const [event, content] = JSON.parse(text.slice(2));
    if (event === "presence") rooms.get(content.room)?.(content);
    else if (event === "close") pause = content.retry_milliseconds ?? 0;
  } else if (text.startsWith("43")) {
    const [, number, [answer]] = text.match(/^43(\d+)(.*)$/s).map((part, n) => (n === 2 ? JSON.parse(part) : part));
    const waiting = answers.get(Number(number));
    answers.delete(Number(number));
    if (answer.problem) waiting?.reject(new Refusal(answer.problem));
    else waiting?.resolve(answer);
  }
}

function ask(message, content) {
  if (!greeted) return Promise.reject(new Refusal({ title: "disconnected" }));
  const number = asked;
  asked += 1;
  return new Promise((resolve, reject) => {
    answers.set(number, { resolve, reject });
    socket.send(`42${number}${JSON.stringify([message, content])}`);
  });
}

function join(name) {
  ask("join", { room: name }).then((told) => rooms.get(name)?.(told), ignore);
}

// A refusal is an answer: whoever needs one asks again when the connection is back, and who
// leaves needs none. What else goes wrong is a fault of this program.
function ignore(error) {
  if (!(error instanceof Refusal)) throw error;
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timers.hidden);
  if (document.visibilityState === "hidden") timers.hidden = setTimeout(close, HIDDEN_MS);
  else open();
});
addEventListener("offline", close);
addEventListener("online", open);
addEventListener("pagehide", close);
addEventListener("pageshow", (event) => { if (event.persisted) open(); });
