// Charts as SVG, drawn as wide as their place is, so that letters stay legible on a phone. No library: there are three
// of them, and nothing may come from another host.

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 220;
const MARGIN = { left: 64, right: 14, top: 12, bottom: 28 };
const TICKS = 4;
const ROW = 26;
const HOUR = 3600;

function shape(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function canvas(width, height, title) {
  const svg = shape("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  svg.append(shape("title", {}, title));
  return svg;
}

/** Round numbers that hold the figures between them: a step of 1, 2 or 5 times a power of ten. */
function ticks(low, high) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  const first = Math.floor((low === high ? low - step : low) / step);
  const last = Math.max(first + 1, Math.ceil((low === high ? high + step : high) / step));
  return Array.from({ length: last - first + 1 }, (_, at) => Number(((first + at) * step).toPrecision(12)));
}

function grid(svg, marks, y, width, label) {
  for (const value of marks) {
    svg.append(shape("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, label(value)));
  }
}

function dates(svg, points, x) {
  const last = points.length - 1;
  const places = last > 1 ? [0, Math.floor(last / 2), last] : [0, last];
  for (const at of new Set(places)) {
    const anchor = at === 0 && last ? "start" : at === last && last ? "end" : "middle";
    svg.append(shape("text", { x: x(at), y: HEIGHT - 8, "text-anchor": anchor }, points[at].date));
  }
}

/**
 * Draw a trend.
 * @param {{title: string, unit: string, points: {date: string, value: number | null, said: string}[]}} trend
 * @param {number} width in pixels
 * @returns {SVGElement} labelled for a screen reader; the figures are in the words beside it
 */
export function drawTrend(trend, width) {
  const values = trend.points.map((point) => point.value).filter((value) => value !== null);
  const svg = canvas(width, HEIGHT, `${trend.title} by day`);
  if (!values.length) return svg;
  const marks = ticks(Math.min(...values), Math.max(...values));
  const [low, high] = [marks[0], marks.at(-1)];
  const across = width - MARGIN.left - MARGIN.right;
  const down = HEIGHT - MARGIN.top - MARGIN.bottom;
  const x = (at) => MARGIN.left + (trend.points.length < 2 ? across / 2 : (at / (trend.points.length - 1)) * across);
  const y = (value) => MARGIN.top + (1 - (value - low) / (high - low)) * down;
  grid(svg, marks, y, width, (value) => `${value.toLocaleString()} ${trend.unit}`.trim());
  // A day without a figure is a gap, not a line through it.
  let path = "";
  let pen = "M";
  trend.points.forEach((point, at) => {
    if (point.value === null) {
      pen = "M";
      return;
    }
    path += `${pen}${x(at).toFixed(1)} ${y(point.value).toFixed(1)}`;
    pen = "L";
    const dot = shape("circle", { class: "point", cx: x(at), cy: y(point.value), r: trend.points.length > 60 ? 1.5 : 3 });
    dot.append(shape("title", {}, `${point.date}: ${point.said}`));
    svg.append(dot);
  });
  svg.append(shape("path", { class: "series", d: path }));
  dates(svg, trend.points, x);
  return svg;
}

/**
 * Draw what each day has used.
 * @param {{date: string, used_bytes: number}[]} days the days without any are left out of it, and are gaps here
 * @param {number} width in pixels
 * @param {(bytes: number) => string} said how a number of bytes is said
 * @returns {SVGElement}
 */
export function drawDays(days, width, said) {
  const svg = canvas(width, HEIGHT, "Data used by day");
  const day = (date) => Date.parse(date) / 86_400_000;
  const used = new Map(days.map((one) => [day(one.date), one]));
  const [first, last] = [Math.min(day(days[0].date), day(days.at(-1).date) - 6), day(days.at(-1).date)];
  const marks = ticks(0, Math.max(...days.map((one) => one.used_bytes)));
  const slot = (width - MARGIN.left - MARGIN.right) / (last - first + 1);
  const down = HEIGHT - MARGIN.top - MARGIN.bottom;
  const y = (value) => MARGIN.top + (1 - value / marks.at(-1)) * down;
  const x = (at) => MARGIN.left + slot * (at + 0.5);
  grid(svg, marks, y, width, said);
  for (const [number, one] of used) {
    const left = MARGIN.left + slot * (number - first) + slot * 0.15;
    const height = Math.max(1, down + MARGIN.top - y(one.used_bytes));
    const bar = shape("rect", { class: "bar", x: left, y: down + MARGIN.top - height, width: slot * 0.7, height, rx: 2 });
    bar.append(shape("title", {}, `${one.date}: ${said(one.used_bytes)}`));
    svg.append(bar);
  }
  const all = Array.from({ length: last - first + 1 }, (_, at) => ({ date: new Date((first + at) * 86_400_000).toISOString().slice(5, 10) }));
  dates(svg, all, x);
  return svg;
}

/**
 * Draw the last day: one row of connection, and one of marks for each kind of work.
 * @param {{begin: number, end: number, connection: {from: number, to: number, status: string}[],
 *   rows: {name: string, marks: {at: number, count: number, what: string}[]}[]}} day times in seconds since the epoch
 * @param {number} width in pixels
 * @returns {SVGElement}
 */
export function drawDay(day, width) {
  const left = 92;
  const height = MARGIN.top + ROW * (day.rows.length + 1) + MARGIN.bottom;
  const svg = canvas(width, height, "The last 24 hours");
  const x = (at) => left + ((at - day.begin) / (day.end - day.begin)) * (width - left - MARGIN.right);
  const middle = (row) => MARGIN.top + ROW * (row + 0.5);
  const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const every = (width < 500 ? 8 : 4) * HOUR;
  const zone = new Date(day.begin * 1000).getTimezoneOffset() * 60;
  for (let at = Math.ceil((day.begin - zone) / every) * every + zone; at < day.end; at += every) {
    svg.append(shape("line", { class: "grid", x1: x(at), x2: x(at), y1: MARGIN.top, y2: height - MARGIN.bottom }));
    if (x(at) < width - 70) svg.append(shape("text", { x: x(at), y: height - 8, "text-anchor": "middle" }, clock(at)));
  }
  svg.append(shape("text", { x: width - MARGIN.right, y: height - 8, "text-anchor": "end" }, "now"));
  svg.append(shape("text", { x: 0, y: middle(0) + 4 }, "Connection"));
  for (const span of day.connection) {
    const [from, to] = [x(span.from), x(span.to)];
    const box = { x: from, y: middle(0) - 7, width: Math.max(1.5, to - from), height: 14, rx: 2 };
    const drawn = shape("rect", { class: `span ${span.status}`, ...box });
    drawn.append(shape("title", {}, `${span.status} from ${clock(span.from)} to ${clock(span.to)}`));
    svg.append(drawn);
  }
  day.rows.forEach((row, number) => {
    svg.append(shape("text", { x: 0, y: middle(number + 1) + 4 }, row.name));
    svg.append(shape("line", { class: "grid", x1: left, x2: width - MARGIN.right, y1: middle(number + 1), y2: middle(number + 1) }));
    for (const mark of row.marks) {
      const dot = shape("circle", { class: "point", cx: x(mark.at), cy: middle(number + 1), r: Math.min(9, 3 + Math.log2(mark.count)) });
      dot.append(shape("title", {}, `${clock(mark.at)}: ${mark.what}`));
      svg.append(dot);
    }
  });
  return svg;
}
