// What the mouse and the keyboard do in the picture.

// What is under the pointer: a finding, or a session.
function itemAt(x, y) {
  if (y < AXIS_HEIGHT || x < VIEW.gutter) return null;
  const inside = y - AXIS_HEIGHT + scroller.scrollTop;
  const row = SHOWN.rows[rowAt(inside)];
  if (!row) return null;
  const time = shownScale.invert(x);
  const near = shownScale.invert(x + 6) - time;
  let best = null;
  let distance = near;
  for (const finding of findingsOfRow.get(row.number) || []) {
    if (!SHOWN.isFinding[finding]) continue;
    const away = Math.abs(FINDINGS.time[finding] - time);
    const isUp = ROWS[row.number].mac === null || inside - row.y < row.height / 2 - 1;
    if (isUp && away <= distance) [best, distance] = [{ finding }, away];
  }
  if (best) return best;
  for (let at = firstAfter(row, time - near); at < row.until; at += 1) {
    const session = SHOWN.sessions[at];
    if (S.begin[session] > time + near) break;
    const away = Math.max(0, S.begin[session] - time, time - drawnUntil[session]);
    if (away <= distance && (best === null || away < distance)) [best, distance] = [{ session }, away];
  }
  return best;
}

const itemRow = (item) => (item.session !== undefined ? S.row[item.session] : FINDINGS.row[item.finding]);
const itemTime = (item) => (item.session !== undefined ? S.begin[item.session] : FINDINGS.time[item.finding]);

function describe(item) {
  if (item.finding !== undefined) {
    const at = item.finding;
    const [kind, , grave] = W.kinds[FINDINGS.kind[at]];
    return [
      `${grave ? "Grave finding" : "Finding"}: ${kind}`,
      fullText(FINDINGS.time[at]),
      FINDINGS.text[at],
    ];
  }
  const at = item.session;
  const lines = [`${guestName(S.guest[at])} · ${macOf(at)}`, devicesText(at)];
  const state = W.states[S.state[at]];
  const begin = S.begin[at];
  const parts = [];
  if (!Number.isNaN(S.opened[at])) parts.push(`opened ${fullText(S.opened[at])}`);
  if (!Number.isNaN(S.granted[at])) parts.push(`granted ${afterText(begin, S.granted[at])}`);
  if (!Number.isNaN(S.released[at])) parts.push(`released ${afterText(begin, S.released[at])}`);
  lines.push(parts.join(", ") || "no times known");
  const end = S.endedBy[at] >= 0 ? ` by ${W.ends[S.endedBy[at]]}` : "";
  const lasted = S.released[at] - S.granted[at];
  const how = Number.isNaN(lasted) ? "" : ` after ${durationText(lasted)}`;
  lines.push(`${state}${end}${how} · ${W.certainties[S.certainty[at]]}`);
  const count = (findingsOfSession.get(at) || []).length;
  if (count) lines.push(plural(count, "finding"));
  return lines;
}

function showTip(item, x, y) {
  tip.replaceChildren(...describe(item).map((text) => element("div", { children: [outside(text)] })));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(x + 14, window.innerWidth - box.width - 8);
  const below = y + 18 + box.height < window.innerHeight ? y + 18 : y - box.height - 12;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, below)}px`;
}

function hideTip() {
  tip.hidden = true;
}

// Brings an item into view: its row, and its time if that is outside.
function reveal(item, center = false) {
  const place = SHOWN.rows.find((row) => row.number === itemRow(item));
  if (place) {
    const room = VIEW.height - AXIS_HEIGHT - LANE_HEIGHT;
    if (place.y < scroller.scrollTop) scroller.scrollTop = place.y - HOST_HEIGHT;
    else if (place.y > scroller.scrollTop + room) scroller.scrollTop = place.y - room;
  }
  const from = itemTime(item);
  const until = item.session !== undefined ? drawnUntil[item.session] : from;
  if (center || from > VIEW.until || until < VIEW.from) {
    const middle = shownScale((Math.max(from, 0) + Math.min(until, from + (VIEW.until - VIEW.from) / 2)) / 2);
    const wanted = VIEW.gutter + (VIEW.width - VIEW.gutter) / 2;
    const selection = d3.select(canvas);
    zoom.translateBy(selection, (wanted - middle) / d3.zoomTransform(canvas).k, 0);
  }
  redraw();
}

// Shows an item over half of the width.
function zoomTo(item) {
  const from = Math.max(0, itemTime(item));
  showRange(
    from,
    Math.max(from + 100, Math.min(UNTIL, item.session !== undefined ? drawnUntil[item.session] : from)),
    2,
  );
  reveal(item);
}

// Shows a range of time, in the middle of one that is so many times as long.
function showRange(from, until, times) {
  const k = Math.min(MAX_ZOOM, Math.max(1, (UNTIL + 2 * MARGIN) / (times * (until - from))));
  const middle = (VIEW.gutter + VIEW.width) / 2 - k * scale((from + until) / 2);
  const x = Math.min(VIEW.gutter * (1 - k), Math.max(VIEW.width * (1 - k), middle));
  zoom.transform(d3.select(canvas), d3.zoomIdentity.translate(x, 0).scale(k));
}

// All that the filter selects.
function zoomMatches() {
  let [from, until] = [Infinity, -Infinity];
  for (const session of SHOWN.sessions) {
    from = Math.min(from, Math.max(0, S.begin[session]));
    until = Math.max(until, Math.min(UNTIL, drawnUntil[session]));
  }
  for (const finding of SHOWN.findings) {
    from = Math.min(from, FINDINGS.time[finding]);
    until = Math.max(until, FINDINGS.time[finding]);
  }
  if (from <= until) showRange(from, Math.max(until, from + 100), 1.1);
}

const zoomBy = (factor) => zoom.scaleBy(d3.select(canvas), factor);
const zoomFit = () => zoom.transform(d3.select(canvas), d3.zoomIdentity);
const panBy = (part) => {
  zoom.translateBy(d3.select(canvas), (-part * (VIEW.width - VIEW.gutter)) / d3.zoomTransform(canvas).k, 0);
};

function timelineKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const keys = {
    "+": () => zoomBy(1.5),
    "=": () => zoomBy(1.5),
    "-": () => zoomBy(1 / 1.5),
    "−": () => zoomBy(1 / 1.5),
    0: zoomFit,
    m: zoomMatches,
    ArrowLeft: () => panBy(-0.1),
    ArrowRight: () => panBy(0.1),
    ArrowUp: () => {
      scroller.scrollTop -= LANE_HEIGHT * 2;
    },
    ArrowDown: () => {
      scroller.scrollTop += LANE_HEIGHT * 2;
    },
    PageUp: () => {
      scroller.scrollTop -= VIEW.height * 0.8;
    },
    PageDown: () => {
      scroller.scrollTop += VIEW.height * 0.8;
    },
    Home: () => {
      scroller.scrollTop = 0;
    },
    End: () => {
      scroller.scrollTop = SHOWN.height;
    },
    n: () => step(1),
    p: () => step(-1),
    z: () => {
      if (VIEW.item) zoomTo(VIEW.item);
    },
    Enter: () => {
      if (VIEW.item) openStory(VIEW.item);
    },
  };
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

// The next session or finding in the order of the rows.
function step(by) {
  const items = timelineItems();
  if (!items.length) return;
  const at = VIEW.item ? items.findIndex((one) => sameItem(one, VIEW.item)) : -1;
  const next = at < 0 ? (by > 0 ? 0 : items.length - 1) : Math.min(items.length - 1, Math.max(0, at + by));
  select(items[next]);
  reveal(items[next]);
  say(describe(items[next]).join(", "));
}

let itemsFor = null;
let itemsList = [];

function timelineItems() {
  if (itemsFor !== SHOWN.sessions) {
    itemsFor = SHOWN.sessions;
    const loose = SHOWN.findings.filter((finding) => FINDINGS.session[finding] === null);
    itemsList = [
      ...Array.from(SHOWN.sessions, (session) => ({ session })),
      ...loose.map((finding) => ({ finding })),
    ];
    itemsList.sort((a, b) => itemRow(a) - itemRow(b) || itemTime(a) - itemTime(b));
  }
  return itemsList;
}

const sameItem = (a, b) => a !== null && b !== null && a.session === b.session && a.finding === b.finding;

function startTimeline() {
  const selection = d3.select(canvas);
  selection.call(zoom).on("dblclick.zoom", null);
  // A wheel sideways, or with shift, moves.
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (event.offsetX < VIEW.gutter || event.ctrlKey) return;
      const sideways = event.shiftKey ? event.deltaX || event.deltaY : event.deltaX;
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        event.preventDefault();
        zoom.translateBy(selection, -sideways / d3.zoomTransform(canvas).k, 0);
      }
    },
    { passive: false },
  );
  scroller.addEventListener("scroll", redraw, { passive: true });
  scroller.addEventListener("keydown", timelineKey);
  canvas.addEventListener("pointermove", (event) => {
    const item = itemAt(event.offsetX, event.offsetY);
    canvas.classList.toggle("over", item !== null);
    if (item) showTip(item, event.clientX, event.clientY);
    else hideTip();
    if (!sameItem(item, VIEW.hover)) {
      VIEW.hover = item;
      redraw();
    }
  });
  canvas.addEventListener("pointerleave", () => {
    VIEW.hover = null;
    hideTip();
    redraw();
  });
  canvas.addEventListener("click", (event) => {
    const item = itemAt(event.offsetX, event.offsetY);
    if (item) openStory(item);
    else scroller.focus({ preventScroll: true });
  });
  new ResizeObserver(resize).observe(scroller);
}
