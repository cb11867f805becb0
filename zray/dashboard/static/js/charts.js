// Plots as SVG.  Widths are those of the page's column; nothing is drawn that the server did not send.
import {h, set, svg, write} from "./dom.js";
import {clean, clock, duration, now, plain, shortId} from "./format.js";

const COLORS = 10;  // classes c0 to c9 of the style sheet

// Equal names have equal colours, on every page and after each reload.
export function colorOf(name) {
  let hash = 2166136261;
  for (let i = 0; i < name.length; i += 1) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619);
  return `c${(hash >>> 0) % COLORS}`;
}

const WIDTH = 360;
const HEIGHT = 120;
const LEFT = 44;
const BOTTOM = 18;
const GAP_S = 6;

// Lines over time: series are [{labels, points: [[seconds, value], ...]}].
export class LineChart {
  constructor(title) {
    this.title = title;
    this.lines = svg("g");
    this.top = svg("text", {x: LEFT - 6, y: 12, class: "tick", "text-anchor": "end"});
    this.low = svg("text", {x: LEFT - 6, y: HEIGHT - BOTTOM, class: "tick", "text-anchor": "end"});
    this.from = svg("text", {x: LEFT, y: HEIGHT - 4, class: "tick"});
    this.to = svg("text", {x: WIDTH, y: HEIGHT - 4, class: "tick", "text-anchor": "end"});
    this.graph = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img"},
      svg("line", {x1: LEFT, x2: WIDTH, y1: 8, y2: 8, class: "rule"}),
      svg("line", {x1: LEFT, x2: WIDTH, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM, class: "rule"}),
      this.lines, this.top, this.low, this.from, this.to);
    this.legend = h("ul", {class: "legend"});
    this.element = h("div", {}, this.graph, this.legend);
  }

  update(series, show = plain) {
    const all = series.flatMap((one) => one.points);
    const values = all.map((point) => point[1]);
    const highest = values.length ? Math.max(...values) : 0;
    const lowest = Math.min(0, ...values);
    const high = highest > lowest ? highest : lowest + 1;
    const end = all.length ? Math.max(...all.map((point) => point[0])) : now() / 1000;
    const begin = Math.min(end - 30, ...all.map((point) => point[0]));
    const x = (at) => LEFT + ((at - begin) / (end - begin)) * (WIDTH - LEFT);
    const y = (value) => HEIGHT - BOTTOM - ((value - lowest) / (high - lowest)) * (HEIGHT - BOTTOM - 8);
    write(this.top, show(high));
    write(this.low, show(lowest));
    write(this.from, clock(begin * 1000));
    write(this.to, clock(end * 1000));
    while (this.lines.children.length < series.length) this.lines.append(svg("path"));
    while (this.lines.children.length > series.length) this.lines.lastChild.remove();
    const latest = [];
    series.forEach((one, i) => {
      // A gap in time is a gap in the line: nobody looked then.
      const steps = one.points.map(([at, value], n) => {
        const joined = n > 0 && at - one.points[n - 1][0] < GAP_S;
        return `${joined ? "L" : "M"}${x(at).toFixed(1)},${y(value).toFixed(1)}${joined ? "" : "h.01"}`;
      });
      set(this.lines.children[i], {d: steps.join(""), class: `line c${i % COLORS}`});
      latest.push(one.points.length ? show(one.points.at(-1)[1]) : "–");
    });
    set(this.graph, {"aria-label": `${this.title}: ${latest.join(", ") || "no points yet"}`});
    while (this.legend.children.length < series.length) this.legend.append(h("li", {}, h("span"), h("bdi"), h("b")));
    while (this.legend.children.length > series.length) this.legend.lastChild.remove();
    series.forEach((one, i) => {
      const [mark, label, value] = this.legend.children[i].children;
      set(mark, {class: `mark c${i % COLORS}`});
      write(label, labelOf(one.labels));
      write(value, latest[i]);
    });
  }
}

function labelOf(labels) {
  const shown = Object.entries(labels).filter(([name]) => name !== "NodeAddress").map(([name, value]) =>
    name === "NodeId" || name === "WorkerId" ? `${name === "NodeId" ? "node" : "worker"} ${shortId(value)}` : clean(value));
  return shown.join(", ") || "all";
}

const LANE = 22;
const GUTTER = 142;
const AXIS = 20;

// Bars of tasks in a lane for each process, from `span_s` ago until now.
export class Lanes {
  constructor(label) {
    this.rules = svg("g");
    this.names = svg("g");
    this.bars = svg("g");
    this.graph = svg("svg", {class: "lanes", role: "img", "aria-label": label});
    this.graph.append(this.rules, this.names, this.bars);
    this.hint = h("p", {class: "hint"}, "");
    this.legend = h("ul", {class: "legend flow"});
    this.element = h("div", {}, h("div", {class: "lanes-box"}, this.graph), this.hint, this.legend);
    this.label = label;
    this.data = null;
    this.graph.addEventListener("click", (event) => {
      const task = event.target.dataset?.task;
      if (task) location.hash = `#/task?id=${task}`;
    });
    this.graph.addEventListener("mousemove", (event) => {
      const told = event.target.dataset?.told;
      if (told) write(this.hint, told);
    });
  }

  update(data) {
    this.data = data;
    this.draw();
  }

  draw() {
    const data = this.data;
    if (!data) return;
    const width = Math.max(320, this.element.clientWidth || 900);
    const gutter = width < 600 ? 74 : GUTTER;
    const height = data.lanes.length * LANE + AXIS;
    set(this.graph, {width, height, viewBox: `0 0 ${width} ${height}`});
    const end = now();
    const begin = end - data.span_s * 1000;
    const x = (ms) => gutter + (Math.max(0, ms - begin) / (end - begin)) * (width - gutter);
    this.axis(width, gutter, height, data.span_s);
    resize(this.names, data.lanes.length, () => svg("text", {class: "lane-name", x: 0}));
    data.lanes.forEach((lane, i) => {
      set(this.names.children[i], {y: i * LANE + 15});
      write(this.names.children[i], `${lane.actor_id ? "actor" : "pid"} ${lane.pid ?? "?"}${width < 600 ? "" : " on " + shortId(lane.node_id)}`);
    });
    const shown = data.bars.filter((bar) => !bar[3] || bar[3] >= begin);
    resize(this.bars, shown.length, () => svg("rect"));
    const names = new Map();
    shown.forEach(([lane, name, from, to, state, task], i) => {
      const left = x(from);
      const color = colorOf(name);
      names.set(name, color);
      const told = `${clean(name)} · ${state} · ${duration((to || end) - from)} · from ${clock(from)}`;
      set(this.bars.children[i], {x: left.toFixed(1), y: lane * LANE + 3, width: Math.max(1.5, x(to || end) - left).toFixed(1),
        height: LANE - 6, rx: 2, class: `bar ${color} ${state}`, "data-task": task, "data-told": told});
    });
    const running = shown.filter((bar) => !bar[3]).length;
    set(this.graph, {"aria-label": `${this.label}: ${shown.length} tasks in ${data.lanes.length} processes, ${running} run`});
    const legend = [...names].slice(0, 24);
    resize(this.legend, legend.length, () => h("li", {}, h("span"), h("bdi")));
    legend.forEach(([name, color], i) => {
      const [mark, label] = this.legend.children[i].children;
      set(mark, {class: `mark ${color}`});
      write(label, clean(name));
    });
    if (!this.hint.textContent) {
      write(this.hint, shown.length ? "Point at a bar for its task; click it for its story." : "No task ran in this time.");
    }
  }

  axis(width, gutter, height, span) {
    const steps = width < 600 ? 3 : 6;
    resize(this.rules, (steps + 1) * 2, (i) => (i % 2 ? svg("text", {class: "tick"}) : svg("line", {class: "rule"})));
    for (let i = 0; i <= steps; i += 1) {
      const at = gutter + ((width - gutter) * i) / steps;
      set(this.rules.children[i * 2], {x1: at, x2: at, y1: 0, y2: height - AXIS});
      set(this.rules.children[i * 2 + 1], {x: at, y: height - 5, "text-anchor": i === steps ? "end" : i ? "middle" : "start"});
      const ago = span * (1 - i / steps);
      write(this.rules.children[i * 2 + 1], i === steps ? "now" : `−${duration(ago * 1000)}`);
    }
  }
}

function resize(parent, length, make) {
  while (parent.children.length < length) parent.append(make(parent.children.length));
  while (parent.children.length > length) parent.lastChild.remove();
}
