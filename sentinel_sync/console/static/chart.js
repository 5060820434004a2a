// A line chart as SVG. No library: one series, and nothing may come from another host.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 760;
const HEIGHT = 240;
const MARGIN = { left: 64, right: 12, top: 12, bottom: 28 };
const TICKS = 4;

function shape(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/**
 * Draw a trend.
 * @param {{title: string, unit: string, points: {date: string, value: number | null, said: string}[]}} trend
 * @returns {SVGElement} labelled for a screen reader; the figures are in the words beside it
 */
export function drawTrend(trend) {
  const values = trend.points.map((point) => point.value).filter((value) => value !== null);
  const svg = shape("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.append(shape("title", {}, `${trend.title} by day`));
  if (!values.length) return svg;
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (low === high) [low, high] = [low - 1, high + 1];
  const across = WIDTH - MARGIN.left - MARGIN.right;
  const down = HEIGHT - MARGIN.top - MARGIN.bottom;
  const x = (at) => MARGIN.left + (trend.points.length < 2 ? across / 2 : (at / (trend.points.length - 1)) * across);
  const y = (value) => MARGIN.top + (1 - (value - low) / (high - low)) * down;
  const decimals = high - low < 10 ? 1 : 0;
  for (let tick = 0; tick <= TICKS; tick += 1) {
    const value = low + ((high - low) * tick) / TICKS;
    svg.append(shape("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(value), y2: y(value) }));
    const label = `${value.toLocaleString("en", { maximumFractionDigits: decimals })} ${trend.unit}`.trim();
    svg.append(shape("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, label));
  }
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
  const last = trend.points.length - 1;
  for (const at of new Set([0, Math.floor(last / 2), last])) {
    const anchor = at === 0 ? "start" : at === last ? "end" : "middle";
    svg.append(shape("text", { x: x(at), y: HEIGHT - 8, "text-anchor": anchor }, trend.points[at].date));
  }
  return svg;
}
