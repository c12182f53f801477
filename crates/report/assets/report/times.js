// Times in the zone of the host that made the report: the browser's own zone plays no part.

const ZONE = DATA.zone;

// The offset in force at a time (milliseconds since the base), as milliseconds and its name.
function offsetAt(time) {
  const at = time + DATA.base;
  let found = ZONE.offsets[0];
  for (const change of ZONE.offsets) {
    if (change[0] !== null && change[0] > at) break;
    found = change;
  }
  return { millis: found[1] * 1000, name: found[2] };
}

// A Date whose UTC fields are the local ones.
const local = (time) => new Date(time + DATA.base + offsetAt(time).millis);
const pad = (value, digits = 2) => String(value).padStart(digits, "0");

function dateText(time) {
  const at = local(time);
  return `${pad(at.getUTCFullYear(), 4)}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())}`;
}

function clockText(time, digits = 3) {
  const at = local(time);
  const seconds = `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}:${pad(at.getUTCSeconds())}`;
  return digits === 0 ? seconds : `${seconds}.${pad(at.getUTCMilliseconds(), 3)}`;
}

const fullText = (time, digits = 3) => `${dateText(time)} ${clockText(time, digits)}`;

// Without the date, where that is another time's.
function afterText(since, time) {
  return dateText(since) === dateText(time) ? clockText(time) : fullText(time);
}

function durationText(millis) {
  if (millis < 1000) return `${Math.round(millis)} ms`;
  if (millis < 60000) return `${(millis / 1000).toFixed(millis < 10000 ? 2 : 1)} s`;
  const units = [
    ["d", 86400000],
    ["h", 3600000],
    ["min", 60000],
    ["s", 1000],
  ];
  const first = units.findIndex(([, size]) => millis >= size);
  const count = Math.floor(millis / units[first][1]);
  const next = units[first + 1];
  const rest = next ? Math.floor((millis - count * units[first][1]) / next[1]) : 0;
  const text = `${count} ${units[first][0]}`;
  return rest > 0 ? `${text} ${rest} ${next[0]}` : text;
}

// Ticks at round local times, with what they are called; `major` ones begin a day.
function ticks(from, until, count) {
  const [first, last] = [local(from), local(until)];
  const times = d3.utcTicks(first, last, count);
  const step = times.length > 1 ? times[1] - times[0] : last - first;
  return times.map((at) => {
    const guess = at.getTime() - DATA.base - offsetAt(from).millis;
    // Around a change of the offset, the guess may be on its other side.
    const time = at.getTime() - DATA.base - offsetAt(guess).millis;
    return { time, text: tickText(at, step), major: isDay(at) };
  });
}

const isDay = (at) => at.getTime() % 86400000 === 0;

function tickText(at, step) {
  const [year, month] = [at.getUTCFullYear(), at.getUTCMonth()];
  if (isDay(at)) {
    if (step > 300 * 86400000) return String(year);
    const name = d3.utcFormat("%b")(at);
    if (step > 27 * 86400000) return month === 0 ? `${name} ${year}` : name;
    return `${at.getUTCDate()} ${name}`;
  }
  const minutes = `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
  if (step >= 60000) return minutes;
  if (step >= 1000) return `${minutes}:${pad(at.getUTCSeconds())}`;
  return `:${pad(at.getUTCSeconds())}.${pad(at.getUTCMilliseconds(), 3)}`;
}
