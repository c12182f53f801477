// The data: columns become typed arrays, in which an unknown number is NaN.

const DATA = JSON.parse(document.getElementById("data").textContent);

const numbers = (column) => Float64Array.from(column, (value) => (value === null ? NaN : value));
const indices = (column) => Int32Array.from(column, (value) => (value === null ? -1 : value));

const S = {
  count: DATA.sessions.row.length,
  row: indices(DATA.sessions.row),
  guest: indices(DATA.sessions.guest),
  begin: numbers(DATA.sessions.begin),
  opened: numbers(DATA.sessions.opened),
  granted: numbers(DATA.sessions.granted),
  released: numbers(DATA.sessions.released),
  certainFrom: numbers(DATA.sessions.certain_from),
  certainUntil: numbers(DATA.sessions.certain_until),
  state: indices(DATA.sessions.state),
  certainty: indices(DATA.sessions.certainty),
  endedBy: indices(DATA.sessions.ended_by),
  unauthenticated: Uint8Array.from(DATA.sessions.unauthenticated),
};

const W = DATA.words;
const STATE = Object.fromEntries(W.states.map((word, at) => [word, at]));
const END = Object.fromEntries(W.ends.map((word, at) => [word, at]));
const ROWS = DATA.rows.map(([host, guest, mac, lane]) => ({ host, guest, mac, lane }));
const HOLDINGS = DATA.holdings;
const FINDINGS = DATA.findings;
const UNTIL = DATA.until;

// The first of each session's holdings, weak ranges and findings; they are sorted by session.
function firsts(count, sessionOf, length) {
  const first = new Int32Array(count + 1);
  for (let at = 0; at < length; at += 1) first[sessionOf(at) + 1] += 1;
  for (let at = 0; at < count; at += 1) first[at + 1] += first[at];
  return first;
}

const holdingFirst = new Int32Array(S.count + 1);
DATA.sessions.holdings.forEach((count, at) => {
  holdingFirst[at + 1] = holdingFirst[at] + count;
});
const weakFirst = firsts(S.count, (at) => DATA.weak[at][0], DATA.weak.length);

const findingsOfSession = new Map();
const findingsOfRow = new Map();
FINDINGS.row.forEach((row, at) => {
  const add = (map, key) => (map.has(key) ? map.get(key).push(at) : map.set(key, [at]));
  add(findingsOfRow, row);
  if (FINDINGS.session[at] !== null) add(findingsOfSession, FINDINGS.session[at]);
});
for (const list of findingsOfRow.values()) list.sort((a, b) => FINDINGS.time[a] - FINDINGS.time[b]);

const isGrave = (finding) => W.kinds[FINDINGS.kind[finding]][2];
const coverageOfHost = new Map(DATA.coverage.map((one) => [one.host, one]));

// When a session's drawing ends: its release, the last time at which QEMU may have it, or the end.
const drawnUntil = new Float64Array(S.count);
const failedOpens = new Uint8Array(S.count);
for (let at = 0; at < S.count; at += 1) {
  let end = Math.max(S.begin[at], S.granted[at] || 0, S.released[at] || 0);
  if (S.state[at] === STATE.held || S.state[at] === STATE.opening) end = UNTIL;
  for (let weak = weakFirst[at]; weak < weakFirst[at + 1]; weak += 1) {
    const until = DATA.weak[weak][2];
    end = Math.max(end, until === null ? UNTIL : until);
  }
  drawnUntil[at] = end;
  for (let one = holdingFirst[at]; one < holdingFirst[at + 1]; one += 1) {
    if (HOLDINGS.failed[one] !== null) failedOpens[at] = 1;
  }
}

function deviceText(device) {
  const [kind, path, interfaceName, number] = DATA.devices[device];
  const name = interfaceName || (kind === "macvtap" ? path : null);
  if (name && name.startsWith(kind)) return name;
  return name ? `${kind} ${name}` : kind === "unknown" ? path || number || kind : kind;
}

// The devices of a session by name, those that QEMU got first, each once.
function devicesText(session) {
  const names = new Set();
  for (const all of [false, true]) {
    for (let one = holdingFirst[session]; one < holdingFirst[session + 1]; one += 1) {
      const isMain = HOLDINGS.state[one] === S.state[session];
      if (isMain || (all && names.size === 0)) names.add(deviceText(HOLDINGS.device[one]));
    }
  }
  return [...names].join(", ");
}

const macOf = (session) => DATA.macs[ROWS[S.row[session]].mac];
const hostOf = (session) => DATA.hosts[ROWS[S.row[session]].host];
const guestName = (guest) => (guest === null || guest < 0 ? "" : DATA.guests[guest][0]);

// An element with a text and children; texts from outside are only ever shown like this.
function element(name, { text, className, children = [], ...attributes } = {}) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A name from outside: its direction of writing must not touch what stands beside it.
const outside = (text, className = "") => element("bdi", { text, className });

const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
