
// Keeps the page up to date: the server names each new page, and this one loads itself again with
// the same filter and range.

const VIEW_KEY = "taptrail-view";
const SELECTS = ["host", "guest", "mac", "device", "state", "kind"];

// An option's place in its list may change, so it is kept by its text, without a count behind it.
const optionText = (option) => option.textContent.replace(/ \(\d+\)$/, "");

function saveView() {
  const [from, until] = shownScale.domain();
  const selects = SELECTS.map((key) => {
    const select = document.getElementById(`f-${key}`);
    return select.selectedIndex > 0 ? optionText(select.options[select.selectedIndex]) : "";
  });
  const whole = from <= 0 && until >= UNTIL;
  sessionStorage.setItem(VIEW_KEY, JSON.stringify({
    text: document.getElementById("f-text").value,
    selects,
    range: whole ? null : [from, until],
    top: [scrollY, scroller.scrollTop],
  }));
}

function restoreView() {
  const saved = sessionStorage.getItem(VIEW_KEY);
  sessionStorage.removeItem(VIEW_KEY);
  if (!saved) return;
  const view = JSON.parse(saved);
  document.getElementById("f-text").value = view.text;
  SELECTS.forEach((key, at) => {
    const select = document.getElementById(`f-${key}`);
    const option = [...select.options].findIndex((one) => optionText(one) === view.selects[at]);
    if (view.selects[at] && option > 0) select.selectedIndex = option;
  });
  for (const key of Object.keys(FILTER)) FILTER[key] = document.getElementById(`f-${key}`).value;
  refresh();
  if (view.range) {
    const [from, until] = view.range;
    const [left, right] = scale.range();
    const k = (right - left) / (scale(until) - scale(from));
    zoom.transform(d3.select(canvas), d3.zoomIdentity.translate(left - k * scale(from), 0).scale(k));
  }
  scrollTo(0, view.top[0]);
  scroller.scrollTop = view.top[1];
}

function startLive() {
  const status = element("p", { className: "live", role: "status" });
  document.querySelector(".titles").append(status);
  const show = (text, state) => {
    status.textContent = text;
    status.dataset.state = state;
  };
  restoreView();
  const events = new EventSource("events");
  events.addEventListener("open", () => show("Live: this page follows the trail", "live"));
  events.addEventListener("error", () => show("The server does not answer: this page is not up to date", "lost"));
  events.addEventListener("page", (event) => {
    if (event.data === document.body.dataset.generation || !story.hidden) {
      // Nothing is taken away from somebody who reads a story.
      if (event.data !== document.body.dataset.generation) show("The trail has changed: close the story to see it", "stale");
      return;
    }
    saveView();
    location.reload();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && status.dataset.state === "stale") {
      saveView();
      location.reload();
    }
  });
}

startLive();
