// Starts the page, and connects its parts.

function say(text) {
  document.getElementById("said").textContent = text;
}

function recolor() {
  readColors();
  drawLegend();
}

function option(value, text) {
  return element("option", { value, text });
}

function fillSelects() {
  const fill = (id, all, options) => document.getElementById(id).replaceChildren(option("", all), ...options);
  const named = (list) =>
    list.map((text, at) => [at, text]).sort((a, b) => a[1].localeCompare(b[1], "en", { numeric: true }));
  fill(
    "f-host",
    "All hosts",
    named(DATA.hosts).map(([at, text]) => option(at, text)),
  );
  // A guest is its uuid: it may have had several names, and a name several guests.
  const names = new Map();
  DATA.guests.forEach(([name, uuid]) => names.set(uuid, [...(names.get(uuid) || []), name]));
  const counts = new Map();
  for (const list of names.values()) counts.set(list.join(", "), (counts.get(list.join(", ")) || 0) + 1);
  const guests = [...names]
    .map(([uuid, list]) => [uuid, list.join(", ")])
    .sort((a, b) => a[1].localeCompare(b[1], "en", { numeric: true }));
  fill(
    "f-guest",
    "All guests",
    guests.map(([uuid, text]) => option(uuid, counts.get(text) > 1 ? `${text} (${uuid.slice(0, 8)})` : text)),
  );
  fill(
    "f-mac",
    "All interfaces",
    named(DATA.macs).map(([at, text]) => option(at, text)),
  );
  const kinds = [...new Set(DATA.devices.map((device) => device[0]))].sort();
  fill(
    "f-device",
    "All devices",
    kinds.map((kind) => option(kind, kind)),
  );
  const states = [...new Set(S.state)].sort((a, b) => a - b);
  fill(
    "f-state",
    "All states",
    states.map((state) => option(state, W.states[state])),
  );
  const found = new Map();
  FINDINGS.kind.forEach((kind) => found.set(kind, (found.get(kind) || 0) + 1));
  const listed = [...found].sort((a, b) => W.kinds[a[0]][0].localeCompare(W.kinds[b[0]][0], "en"));
  fill("f-kind", "With or without", [
    ...(found.size ? [option("any", "Any finding"), option("grave", "Any grave one")] : []),
    ...listed.map(([kind, count]) => option(kind, `${W.kinds[kind][0]} (${count})`)),
  ]);
}

function refresh() {
  applyFilter();
  const parts = [plural(SHOWN.sessions.length, "session"), plural(SHOWN.findings.length, "finding")];
  const all = SHOWN.sessions.length === S.count && SHOWN.findings.length === FINDINGS.row.length;
  document.getElementById("shown").textContent = all
    ? parts.join(", ")
    : `${parts.join(", ")} of ${S.count.toLocaleString("en")} and ${FINDINGS.row.length.toLocaleString("en")} match`;
  document.getElementById("f-reset").disabled = !isFiltered();
  document.getElementById("zoom-matches").disabled = !isFiltered() || SHOWN.rows.length === 0;
  document.getElementById("empty").hidden = SHOWN.rows.length > 0;
  scroller.hidden = SHOWN.rows.length === 0;
  scroller.style.height = "";
  scroller.style.height = `${Math.min(SHOWN.height + AXIS_HEIGHT + 8, Math.max(260, Math.round(window.innerHeight * 0.5)))}px`;
  scroller.scrollTop = Math.min(scroller.scrollTop, SHOWN.height);
  gridBox.scrollTop = 0;
  GRID.focus = 0;
  fillGrid();
  resize();
}

function startFilters() {
  const form = document.getElementById("filters");
  const read = () => {
    for (const key of Object.keys(FILTER)) FILTER[key] = document.getElementById(`f-${key}`).value;
    refresh();
  };
  let waiting = 0;
  document.getElementById("f-text").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(read, S.count > 5000 ? 150 : 0);
  });
  form.addEventListener("change", read);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(read, 0));
}

function start() {
  readColors();
  fillSelects();
  countsList();
  notices();
  fillEvidence();
  const guests = new Set(DATA.guests.map((guest) => guest[1])).size;
  const counted = [
    plural(DATA.hosts.length, "host"),
    plural(guests, "guest"),
    plural(DATA.macs.length, "interface"),
  ];
  document.getElementById("span").textContent = ROWS.length
    ? `${fullText(0)} – ${afterText(0, UNTIL)} ${ZONE.name} · ${counted.join(", ")}`
    : "No input has a record with a time";
  if (!ROWS.length) document.getElementById("empty").textContent = "There is nothing to show.";
  const hosts = `${DATA.hosts.slice(0, 3).join(", ")}${DATA.hosts.length > 3 ? ", …" : ""}`;
  if (ROWS.length) document.title = `taptrail report: ${hosts}, ${dateText(0)}`;
  startFilters();
  startTimeline();
  startGrid();
  drawLegend();
  refresh();
  draw();
  document.getElementById("zoom-in").addEventListener("click", () => zoomBy(1.5));
  document.getElementById("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  document.getElementById("zoom-matches").addEventListener("click", zoomMatches);
  document.getElementById("zoom-fit").addEventListener("click", zoomFit);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !story.hidden) closeStory();
  });
  for (const query of [
    "(prefers-color-scheme: dark)",
    "(forced-colors: active)",
    "(prefers-contrast: more)",
  ]) {
    matchMedia(query).addEventListener("change", () => {
      recolor();
      redraw();
    });
  }
  matchMedia("(resolution: 1dppx)").addEventListener("change", () => {
    recolor();
    redraw();
  });
  window.addEventListener("beforeprint", preparePrint);
  window.addEventListener("afterprint", endPrint);
  document.documentElement.dataset.ready = "";
}

start();
