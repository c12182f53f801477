// The picture: rows of bars over time. Only what can be seen is drawn.

const canvas = document.getElementById("canvas");
const scroller = document.getElementById("scroller");
const spacer = document.getElementById("spacer");
const tip = document.getElementById("tip");

const VIEW = { width: 0, height: 0, gutter: 0, from: 0, until: 0, item: null, hover: null };

// The whole time, with room on both sides.
const MARGIN = UNTIL * 0.015;
const scale = d3.scaleLinear();
let shownScale = scale;

// So far that a millisecond is some pixels.
const MAX_ZOOM = Math.max(1, UNTIL / 20);
const zoom = d3
  .zoom()
  .scaleExtent([1, MAX_ZOOM])
  .filter((event) => (event.type === "wheel" ? plotWheel(event) : !event.button && !event.ctrlKey))
  .wheelDelta((event) => -event.deltaY * (event.deltaMode === 1 ? 0.05 : event.deltaMode ? 1 : 0.002))
  .on("zoom", zoomed);

// The wheel scrolls over the labels, and zooms over the bars; sideways it moves.
function plotWheel(event) {
  if (event.offsetX < VIEW.gutter || event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))
    return false;
  return true;
}

function zoomed(event) {
  shownScale = event.transform.rescaleX(scale);
  [VIEW.from, VIEW.until] = shownScale.domain();
  const source = event.sourceEvent;
  if (source && source.type === "mousemove") scroller.scrollTop -= source.movementY;
  hideTip();
  redraw();
}

let frame = 0;
function redraw() {
  if (!frame) {
    frame = requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  }
}

function resize() {
  // Paper has a size of its own.
  if ("print" in document.documentElement.dataset) return;
  layOut(scroller.clientWidth, scroller.clientHeight || Infinity);
  spacer.style.height = `${Math.max(0, SHOWN.height + AXIS_HEIGHT + 8 - VIEW.height)}px`;
  redraw();
}

function layOut(width, height) {
  VIEW.width = width;
  VIEW.height = Math.max(AXIS_HEIGHT + LANE_HEIGHT, Math.min(SHOWN.height + AXIS_HEIGHT + 8, height));
  VIEW.gutter = width < 640 ? 132 : Math.min(270, Math.round(width * 0.24));
  scale.domain([-MARGIN, UNTIL + MARGIN]).range([VIEW.gutter, width]);
  zoom
    .extent([
      [VIEW.gutter, 0],
      [width, VIEW.height],
    ])
    .translateExtent([
      [VIEW.gutter, -Infinity],
      [width, Infinity],
    ]);
  // The same time stays in view.
  const k = VIEW.until > VIEW.from ? Math.max(1, (UNTIL + 2 * MARGIN) / (VIEW.until - VIEW.from)) : 1;
  const x = k === 1 ? 0 : VIEW.gutter - k * scale(VIEW.from);
  zoom.transform(d3.select(canvas), d3.zoomIdentity.translate(x, 0).scale(k));
}

// The first place in a row whose session ends at or after `time`.
function firstAfter(row, time) {
  let [low, high] = [row.from, row.until];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (SHOWN.ends[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The first row that reaches below `y`, counted from the first row's top.
function rowAt(y) {
  let [low, high] = [0, SHOWN.rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (SHOWN.rows[middle].y + SHOWN.rows[middle].height <= y) low = middle + 1;
    else high = middle;
  }
  return low;
}

const X = (time) => shownScale(time);

function draw() {
  const context = sizeCanvas(canvas, VIEW.width, VIEW.height);
  const { width, height, gutter } = VIEW;
  const top = scroller.scrollTop;
  context.fillStyle = COLORS.page;
  context.fillRect(0, 0, width, height);
  const marks = ticks(VIEW.from, VIEW.until, Math.max(2, (width - gutter) / 120));

  context.save();
  context.beginPath();
  context.rect(0, AXIS_HEIGHT, width, height - AXIS_HEIGHT);
  context.clip();
  const first = rowAt(top);
  const last = Math.min(SHOWN.rows.length, rowAt(top + height - AXIS_HEIGHT) + 1);
  for (let at = first; at < last; at += 1) drawRowBack(context, SHOWN.rows[at], top);
  context.strokeStyle = COLORS.grid;
  context.lineWidth = 1;
  context.beginPath();
  for (const { time } of marks) {
    const x = Math.round(X(time)) + 0.5;
    if (x > gutter) {
      context.moveTo(x, AXIS_HEIGHT);
      context.lineTo(x, height);
    }
  }
  context.stroke();
  context.save();
  context.beginPath();
  context.rect(gutter, AXIS_HEIGHT, width - gutter, height - AXIS_HEIGHT);
  context.clip();
  drawHosts(context, first, last, top);
  for (let at = first; at < last; at += 1) drawRow(context, SHOWN.rows[at], top);
  context.restore();
  for (let at = first; at < last; at += 1) drawLabel(context, SHOWN.rows[at], top);
  context.restore();
  drawAxis(context, marks);
  const length = durationText(VIEW.until - VIEW.from);
  const range = `${fullText(Math.max(0, VIEW.from), 0)} – ${afterSeconds(VIEW.from, VIEW.until)} · ${length}`;
  document.getElementById("window").textContent = ROWS.length ? range : "";
}

function afterSeconds(since, time) {
  return dateText(since) === dateText(time) ? clockText(time, 0) : fullText(time, 0);
}

function drawRowBack(context, row, top) {
  const data = ROWS[row.number];
  const y = AXIS_HEIGHT + row.y - top;
  if (data.guest === null) {
    context.fillStyle = COLORS.stripe;
    context.fillRect(0, y, VIEW.width, row.height);
  }
  if (VIEW.item && itemRow(VIEW.item) === row.number) {
    context.fillStyle = COLORS.stripe;
    context.fillRect(0, y, VIEW.width, row.height);
  }
  context.fillStyle = COLORS.line;
  if (data.mac === null) context.fillRect(0, y, VIEW.width, 1);
}

// Gaps and boots go through all rows of a host; its coverage is in its own row.
function drawHosts(context, first, last, top) {
  let at = first;
  while (at < last) {
    const host = ROWS[SHOWN.rows[at].number].host;
    let end = at;
    while (end < last && ROWS[SHOWN.rows[end].number].host === host) end += 1;
    const y = AXIS_HEIGHT + SHOWN.rows[at].y - top;
    const below = AXIS_HEIGHT + SHOWN.rows[end - 1].y + SHOWN.rows[end - 1].height - top;
    const coverage = coverageOfHost.get(host);
    if (coverage) {
      for (const [from, until] of ROWS[SHOWN.rows[at].number].guest === null ? coverage.spans : []) {
        if (until >= VIEW.from && from <= VIEW.until) {
          drawCover(
            context,
            Math.max(VIEW.gutter, X(from)),
            Math.min(VIEW.width, X(until)),
            y + HOST_HEIGHT / 2 + 6,
          );
        }
      }
      for (const [from, until] of coverage.gaps) {
        if (until >= VIEW.from && from <= VIEW.until) {
          const x = Math.max(VIEW.gutter - 9, X(from));
          drawGap(context, x, y, Math.min(VIEW.width, X(until)) - x, below - y);
        }
      }
      for (const start of coverage.starts) {
        if (start >= VIEW.from && start <= VIEW.until) drawBoot(context, X(start), y, below - y);
      }
    }
    at = end;
  }
}

function drawRow(context, row, top) {
  const data = ROWS[row.number];
  const y = AXIS_HEIGHT + row.y - top;
  const middle = Math.round(y + row.height / 2);
  if (row.until > row.from) drawBars(context, row, middle + BAR_SHIFT - BAR_HEIGHT / 2);
  const shift = data.mac !== null ? FINDING_SHIFT : data.guest === null ? -3 : 0;
  drawFindings(context, row, middle + shift);
}

function drawBars(context, row, y) {
  // What would be drawn over the same pixel again is left out.
  let [drawn, markAt] = [-Infinity, -Infinity];
  for (let at = firstAfter(row, VIEW.from); at < row.until; at += 1) {
    const session = SHOWN.sessions[at];
    if (S.begin[session] > VIEW.until) break;
    const right = X(drawnUntil[session]);
    const left = X(S.begin[session]);
    const isItem = VIEW.item && VIEW.item.session === session;
    if (right < drawn && right - left < 1 && !isItem && !failedOpens[session]) continue;
    drawBar(context, session, y);
    drawn = Math.max(drawn, Math.ceil(right));
    const middle = y + BAR_HEIGHT / 2;
    if (S.state[session] === STATE.held) {
      if (X(UNTIL) - left > 14) drawEnd(context, Math.min(VIEW.width, X(UNTIL)), middle, "held");
    } else if (S.endedBy[session] >= 0 && !Number.isNaN(S.released[session])) {
      const x = X(S.released[session]);
      if (x - markAt > 10 && nextBegins(row, at, x)) {
        drawEnd(context, x, middle, W.ends[S.endedBy[session]]);
        markAt = x;
      }
    }
    if (failedOpens[session]) markAt = drawFailedOpens(context, session, middle, markAt);
    if (isItem || (VIEW.hover && VIEW.hover.session === session)) outline(context, left, right, y, isItem);
  }
}

// Whether a mark behind a bar has room before the next.
function nextBegins(row, at, x) {
  return at + 1 >= row.until || X(S.begin[SHOWN.sessions[at + 1]]) > x + 10;
}

function drawBar(context, session, y) {
  const certainty = S.certainty[session];
  const cut = (time) => Math.min(VIEW.width + 9, Math.max(VIEW.gutter - 9, X(time)));
  for (let at = weakFirst[session]; at < weakFirst[session + 1]; at += 1) {
    const [, from, until] = DATA.weak[at];
    const x = cut(from === null ? -MARGIN : from);
    const end = cut(until === null ? UNTIL : until);
    if (end > x) drawPossibly(context, x, y, Math.max(1, end - x), certainty);
  }
  const [opened, granted] = [S.opened[session], S.granted[session]];
  if (opened < granted) {
    const x = cut(opened);
    drawOpening(context, x, y, Math.max(1, cut(granted) - x), certainty);
  }
  if (!Number.isNaN(S.certainFrom[session])) {
    const x = cut(S.certainFrom[session]);
    const until = Number.isNaN(S.certainUntil[session]) ? UNTIL : S.certainUntil[session];
    drawCertain(context, x, y, Math.max(1.5, cut(until) - x), certainty);
  } else if (!failedOpens[session]) {
    context.fillStyle = basisColor(certainty);
    context.fillRect(cut(S.begin[session]) - 1, y, 2, BAR_HEIGHT);
  }
}

function drawFailedOpens(context, session, y, markAt) {
  let last = markAt;
  for (let one = holdingFirst[session]; one < holdingFirst[session + 1]; one += 1) {
    const time = HOLDINGS.failed[one];
    if (time === null) continue;
    const x = X(time);
    if (Math.abs(x - last) > 3) drawFailed(context, x, y);
    last = x;
  }
  return last;
}

function outline(context, left, right, y, isItem) {
  context.strokeStyle = isItem ? COLORS.focus : COLORS.muted;
  context.lineWidth = isItem ? 2 : 1;
  const x = Math.max(VIEW.gutter - 9, left) - 2;
  context.strokeRect(x, y - 2.5, Math.max(6, Math.min(VIEW.width + 9, right) - x + 2), BAR_HEIGHT + 5);
}

function drawFindings(context, row, middle) {
  const list = findingsOfRow.get(row.number);
  if (!list) return;
  const from = d3.bisector((at) => FINDINGS.time[at]).left(list, VIEW.from);
  let [last, lastGrave] = [-Infinity, -Infinity];
  for (let at = from; at < list.length; at += 1) {
    const finding = list[at];
    if (FINDINGS.time[finding] > VIEW.until) break;
    if (!SHOWN.isFinding[finding]) continue;
    const x = X(FINDINGS.time[finding]);
    const grave = isGrave(finding);
    // Of several at one place the gravest is seen.
    if (grave ? x - lastGrave < 5 : x - last < 5) continue;
    drawFinding(context, x, middle, grave);
    last = x;
    if (grave) lastGrave = x;
    if (VIEW.item && VIEW.item.finding === finding) {
      context.strokeStyle = COLORS.focus;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, middle, 9, 0, 7);
      context.stroke();
    }
  }
}

const SANS = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";

function drawLabel(context, row, top) {
  const data = ROWS[row.number];
  const y = AXIS_HEIGHT + row.y - top + row.height / 2;
  const edge = VIEW.gutter - 12;
  context.textBaseline = "middle";
  context.textAlign = "left";
  if (data.guest === null) {
    context.font = `600 12px ${SANS}`;
    context.fillStyle = COLORS.muted;
    context.fillText(
      `Host ${fitText(context, DATA.hosts[data.host], edge - 12 - context.measureText("Host ").width, true)}`,
      12,
      y,
    );
  } else if (data.mac === null) {
    context.font = `600 13px ${SANS}`;
    context.fillStyle = COLORS.text;
    context.fillText(fitText(context, DATA.guests[data.guest][0], edge - 22), 22, y);
  } else {
    context.font = `12px ${MONO}`;
    context.fillStyle = data.lane === 0 ? COLORS.text : COLORS.muted;
    const text = data.lane === 0 ? DATA.macs[data.mac] : `overlapping (${data.lane + 1})`;
    context.fillText(fitText(context, text, edge - 34, data.lane === 0), 34, y + BAR_SHIFT);
  }
}

const fitted = new Map();

// A text cut to a width; of paths and MACs the end tells more than the beginning.
function fitText(context, text, width, keepEnd = false) {
  const key = `${context.font}|${width}|${keepEnd}|${text}`;
  if (!fitted.has(key)) {
    let shown = text;
    if (context.measureText(shown).width > width) {
      const letters = [...text];
      let [low, high] = [0, letters.length];
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        const part = cutText(letters, middle, keepEnd);
        if (context.measureText(part).width <= width) low = middle;
        else high = middle - 1;
      }
      shown = cutText(letters, low, keepEnd);
    }
    if (fitted.size > 5000) fitted.clear();
    fitted.set(key, shown);
  }
  return fitted.get(key);
}

const cutText = (letters, count, keepEnd) =>
  keepEnd ? `…${letters.slice(letters.length - count).join("")}` : `${letters.slice(0, count).join("")}…`;

function drawAxis(context, marks) {
  const { width, gutter } = VIEW;
  context.fillStyle = COLORS.page;
  context.fillRect(0, 0, width, AXIS_HEIGHT);
  context.fillStyle = COLORS.line;
  context.fillRect(0, AXIS_HEIGHT - 1, width, 1);
  context.fillRect(gutter, 0, 1, VIEW.height);
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.font = `11px ${SANS}`;
  context.fillStyle = COLORS.muted;
  context.fillText(fitText(context, `Times in ${ZONE.name}`, gutter - 24), 12, 32);
  // The date of the left edge, which a later day pushes away.
  const days = marks.filter((mark) => mark.major && X(mark.time) > gutter + 4);
  context.font = `600 12px ${SANS}`;
  context.fillStyle = COLORS.text;
  const date = dateText(Math.max(VIEW.from, -MARGIN));
  if (!days.length || X(days[0].time) > gutter + 90) context.fillText(date, gutter + 8, 13);
  context.textAlign = "center";
  for (const { time, text, major } of marks) {
    const x = X(time);
    if (x < gutter + 1) continue;
    context.fillStyle = COLORS.line;
    context.fillRect(Math.round(x), AXIS_HEIGHT - 6, 1, 6);
    context.font = major ? `600 12px ${SANS}` : `12px ${SANS}`;
    context.fillStyle = major ? COLORS.text : COLORS.muted;
    if (x > gutter + 22 && x < width - 18) context.fillText(text, x, 29);
  }
}
