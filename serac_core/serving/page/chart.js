// Scores on a line with the threshold, as inline SVG. Positions are attributes: no inline style.

const NS = "http://www.w3.org/2000/svg";
const MARGIN = 14;
const DOT = 9;

function element(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Dots that would lie over one another are put in rows above the line.
function rows(positions) {
  const taken = [];
  return positions.map((x) => {
    let row = 0;
    while ((taken[row] ?? []).some((other) => Math.abs(other - x) < 2 * DOT + 2)) row += 1;
    (taken[row] ??= []).push(x);
    return row;
  });
}

// Drawn for a width in pixels, so that its text is as large as the page's.
export function scoreLine(candidates, threshold, matchedId, width) {
  const right = width - MARGIN;
  const scores = candidates.map((candidate) => candidate.score);
  const low = Math.min(0, threshold, ...scores) < 0 ? -1 : 0;
  const high = Math.max(1, threshold, ...scores);
  const at = (score) => MARGIN + ((score - low) / (high - low)) * (right - MARGIN);
  const positions = scores.map(at);
  const levels = rows(positions);
  const line = 44 + (Math.max(0, ...levels) + 1) * (2 * DOT + 3);
  const height = line + 26;
  const svg = element("svg", {
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: "img",
    "aria-label":
      `Scores of ${scores.length} edits; threshold ${threshold.toFixed(4)}, ` +
      `best ${Math.max(...scores).toFixed(4)}`,
  });
  const edge = at(threshold);
  svg.append(
    element("rect", { class: "chart-in", x: edge, y: 30, width: right - edge + 8, height: line - 30, rx: 4 }),
    element("line", { class: "chart-axis", x1: MARGIN - 8, y1: line, x2: right + 8, y2: line }),
  );
  for (let tick = low; tick <= high + 1e-9; tick += (high - low) / 4) {
    const x = at(tick);
    const label = tick.toFixed(2).replace(/\.?0+$/, "") || "0";
    svg.append(
      element("line", { class: "chart-axis", x1: x, y1: line, x2: x, y2: line + 5 }),
      element("text", { class: "chart-tick", x, y: line + 20, "text-anchor": "middle" }, label),
    );
  }
  const anchor = edge > width * 0.7 ? "end" : edge < width * 0.3 ? "start" : "middle";
  svg.append(
    element("line", { class: "chart-threshold", x1: edge, y1: 22, x2: edge, y2: line + 5 }),
    element("text", { class: "chart-label", x: edge, y: 14, "text-anchor": anchor }, `threshold ${threshold.toFixed(3)}`),
  );
  candidates.forEach((candidate, number) => {
    const y = line - DOT - 4 - levels[number] * (2 * DOT + 3);
    const matched = candidate.edit_id === matchedId;
    const dot = element("g", { class: matched ? "chart-dot matched" : "chart-dot" });
    dot.append(
      element("circle", { cx: positions[number], cy: y, r: DOT }),
      element("text", { x: positions[number], y: y + 4, "text-anchor": "middle" }, String(number + 1)),
      element("title", {}, `${candidate.score.toFixed(4)}  ${candidate.prompt}`),
    );
    svg.append(dot);
  });
  return svg;
}
