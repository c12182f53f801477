// Which sessions, findings and rows are shown.

const FILTER = { text: "", host: "", guest: "", mac: "", device: "", state: "", kind: "" };

const SHOWN = {
  // Sessions and findings, in the order of the rows; 1 in the arrays by number.
  sessions: [],
  findings: [],
  isSession: new Uint8Array(S.count),
  isFinding: new Uint8Array(FINDINGS.row.length),
  // Rows from top to bottom, each with the part of `sessions` that is in it.
  rows: [],
  // The latest end of all sessions of a row so far, by place in `sessions`.
  ends: new Float64Array(0),
};

const deviceWords = DATA.devices.map((device) => device.filter(Boolean).join(" ").toLowerCase());

// For each word of a search, the numbers of the names that have it.
function matcher(word) {
  const has = (list) => list.map((text) => text.toLowerCase().includes(word));
  return {
    hosts: has(DATA.hosts),
    guests: has(DATA.guests.map(([name, uuid]) => `${name} ${uuid}`)),
    macs: has(DATA.macs),
    devices: deviceWords.map((text) => text.includes(word)),
    states: has(W.states),
    certainties: has(W.certainties),
    ends: has(W.ends),
    kinds: has(W.kinds.map(([name]) => name)),
  };
}

function sessionHas(match, at) {
  const row = ROWS[S.row[at]];
  if (match.hosts[row.host] || match.guests[S.guest[at]] || match.macs[row.mac]) return true;
  if (match.states[S.state[at]] || match.certainties[S.certainty[at]] || match.ends[S.endedBy[at]])
    return true;
  for (let one = holdingFirst[at]; one < holdingFirst[at + 1]; one += 1) {
    if (match.devices[HOLDINGS.device[one]]) return true;
  }
  return (findingsOfSession.get(at) || []).some((finding) => match.kinds[FINDINGS.kind[finding]]);
}

function findingHas(match, at, word) {
  const host = ROWS[FINDINGS.row[at]].host;
  if (match.hosts[host] || match.guests[FINDINGS.guest[at]] || match.macs[FINDINGS.mac[at]]) return true;
  return match.kinds[FINDINGS.kind[at]] || FINDINGS.text[at].toLowerCase().includes(word);
}

function sessionHasDevice(at, kind) {
  for (let one = holdingFirst[at]; one < holdingFirst[at + 1]; one += 1) {
    if (DATA.devices[HOLDINGS.device[one]][0] === kind) return true;
  }
  return false;
}

function sessionMatches(at, words) {
  const row = ROWS[S.row[at]];
  if (FILTER.host !== "" && row.host !== Number(FILTER.host)) return false;
  if (FILTER.guest !== "" && DATA.guests[S.guest[at]][1] !== FILTER.guest) return false;
  if (FILTER.mac !== "" && row.mac !== Number(FILTER.mac)) return false;
  if (FILTER.state !== "" && S.state[at] !== Number(FILTER.state)) return false;
  if (FILTER.device !== "" && !sessionHasDevice(at, FILTER.device)) return false;
  if (FILTER.kind !== "") {
    const own = findingsOfSession.get(at) || [];
    if (!own.some((finding) => kindMatches(finding))) return false;
  }
  return words.every(([, match]) => sessionHas(match, at));
}

function kindMatches(finding) {
  if (FILTER.kind === "any") return true;
  if (FILTER.kind === "grave") return isGrave(finding);
  return FINDINGS.kind[finding] === Number(FILTER.kind);
}

function findingMatches(at, words) {
  const session = FINDINGS.session[at];
  // A device or a state is of a session: its findings go with it.
  if ((FILTER.device !== "" || FILTER.state !== "") && !(session !== null && SHOWN.isSession[session]))
    return false;
  if (FILTER.kind !== "" && !kindMatches(at)) return false;
  if (FILTER.host !== "" && ROWS[FINDINGS.row[at]].host !== Number(FILTER.host)) return false;
  const guest = FINDINGS.guest[at];
  if (FILTER.guest !== "" && (guest === null || DATA.guests[guest][1] !== FILTER.guest)) return false;
  if (FILTER.mac !== "" && FINDINGS.mac[at] !== Number(FILTER.mac)) return false;
  return words.every(
    ([word, match]) => findingHas(match, at, word) || (session !== null && SHOWN.isSession[session] === 1),
  );
}

function applyFilter() {
  const texts = FILTER.text.toLowerCase().split(/\s+/).filter(Boolean);
  const words = texts.map((word) => [word, matcher(word)]);
  const sessions = [];
  for (let at = 0; at < S.count; at += 1) {
    SHOWN.isSession[at] = sessionMatches(at, words) ? 1 : 0;
    if (SHOWN.isSession[at]) sessions.push(at);
  }
  SHOWN.sessions = Int32Array.from(sessions);
  SHOWN.findings = [];
  const findingRows = new Set();
  for (let at = 0; at < FINDINGS.row.length; at += 1) {
    SHOWN.isFinding[at] = findingMatches(at, words) ? 1 : 0;
    if (SHOWN.isFinding[at]) {
      SHOWN.findings.push(at);
      findingRows.add(FINDINGS.row[at]);
    }
  }
  SHOWN.findings.sort((a, b) => FINDINGS.time[a] - FINDINGS.time[b]);
  layRows(findingRows);
}

const isFiltered = () => Object.values(FILTER).some((value) => value !== "");

// Rows that have something, and the rows of the guests and hosts that these are of.
function layRows(findingRows) {
  const { sessions } = SHOWN;
  SHOWN.ends = new Float64Array(sessions.length);
  SHOWN.rows = [];
  SHOWN.height = 0;
  const all = !isFiltered();
  // The rows of a host and a guest that are shown once something of them is.
  let heads = [];
  let at = 0;
  const push = (number, from, until) => {
    const row = ROWS[number];
    const height = row.mac !== null ? LANE_HEIGHT : row.guest !== null ? GUEST_HEIGHT : HOST_HEIGHT;
    SHOWN.rows.push({ number, from, until, y: SHOWN.height, height });
    SHOWN.height += height;
  };
  ROWS.forEach((row, number) => {
    const from = at;
    let latest = -Infinity;
    while (at < sessions.length && S.row[sessions[at]] === number) {
      latest = Math.max(latest, drawnUntil[sessions[at]]);
      SHOWN.ends[at] = latest;
      at += 1;
    }
    if (row.guest === null) heads = [number];
    else if (row.mac === null) heads = [...heads.filter((head) => ROWS[head].guest === null), number];
    if (!all && at === from && !findingRows.has(number)) return;
    heads.forEach((head) => push(head, from, from));
    heads = [];
    if (row.mac !== null) push(number, from, at);
  });
}
