// Small parts that several pages show.
import {h, set, write} from "./dom.js";
import {clean, duration, moment, now} from "./format.js";

// A text from the session: it is shown whole, in its own direction, on one line.
export function text(value, properties = {}) {
  return h("bdi", properties, clean(value));
}

export function link(target, label, properties = {}) {
  return h("a", {href: `#/${target}`, ...properties}, label);
}

export function address(page, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, v]) => v !== "" && v !== null && v !== undefined));
  return `${page}${query.size ? "?" + query : ""}`;
}

const TONES = {
  RUNNING: "run", runs: "run", ALIVE: "good", FINISHED: "good", finished: "good", SUCCEEDED: "good", CREATED: "good",
  FAILED: "bad", failed: "bad", DEAD: "bad", ERROR: "bad", CRITICAL: "bad", WARNING: "warn", blocked: "warn",
  RUNNING_IN_RAY_GET: "warn", RUNNING_IN_RAY_WAIT: "warn", waits: "wait", RESTARTING: "warn", STOPPED: "warn",
};

export function badge(state) {
  const element = h("span", {class: "badge"});
  setBadge(element, state);
  return element;
}

export function setBadge(element, state) {
  const tone = TONES[state] || (String(state).startsWith("PENDING") || state === "SUBMITTED_TO_WORKER" ? "wait" : "plain");
  set(element, {class: `badge ${tone}`});
  write(element, clean(state).replaceAll("_", " ").toLowerCase());
}

// An age that goes on by itself; tick() is called once a second.
export function since(ms, suffix = "") {
  const element = h("time", {"data-since": ms || 0, "data-suffix": suffix, title: moment(ms)});
  age(element);
  return element;
}

function age(element) {
  const ms = Number(element.dataset.since);
  write(element, ms ? duration(now() - ms) + element.dataset.suffix : "–");
}

export function tick(root) {
  for (const element of root.querySelectorAll("time[data-since]")) age(element);
}

export function meter(label, used, total, show) {
  const element = h("div", {class: "meter"}, h("span", {class: "meter-label"}), h("span", {class: "meter-value"}),
    h("progress", {max: 1, value: 0}));
  setMeter(element, label, used, total, show);
  return element;
}

export function setMeter(element, label, used, total, show) {
  const [name, value, bar] = element.children;
  const share = total > 0 ? Math.max(0, Math.min(1, used / total)) : 0;
  write(name, clean(label));
  write(value, `${show(used)} of ${show(total)}`);
  set(bar, {value: share, "aria-label": `${clean(label)}: ${show(used)} of ${show(total)} in use`,
    class: share >= 0.95 ? "full" : null});
}

export function card(title, ...children) {
  return h("section", {class: "card"}, h("h2", {}, title), ...children);
}

export function empty(what) {
  return h("p", {class: "empty"}, what);
}

export function facts(pairs) {
  return h("dl", {class: "facts"}, ...pairs.filter((pair) => pair).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value instanceof Node ? value : text(value ?? "–")))));
}

export function figure(label, value, tone = "", target = "") {
  const inner = [h("span", {class: "figure-value"}, value), h("span", {class: "figure-label"}, label)];
  return target ? h("a", {class: `figure ${tone}`, href: `#/${target}`}, ...inner)
    : h("div", {class: `figure ${tone}`}, ...inner);
}

// Replace the children of an element only when what they were made of has changed.
export function redraw(element, made, children) {
  const key = JSON.stringify(made);
  if (element.zrayMade === key) return;
  element.zrayMade = key;
  element.replaceChildren(...children());
}

let dialogDone = null;

// A question that must be answered before something is done.
export function confirm(title, body, word) {
  const dialog = document.getElementById("dialog");
  return new Promise((resolve) => {
    dialogDone = resolve;
    dialog.replaceChildren(h("h2", {id: "dialog-title"}, title), h("p", {}, body), h("div", {class: "buttons"},
      h("button", {type: "button", onclick: () => dialog.close("")}, "Leave it"),
      h("button", {type: "button", class: "danger", onclick: () => dialog.close("yes")}, word)));
    dialog.onclose = () => { dialogDone(dialog.returnValue === "yes"); };
    dialog.returnValue = "";
    dialog.showModal();
  });
}

export function say(title, ...children) {
  const dialog = document.getElementById("dialog");
  dialog.replaceChildren(h("h2", {id: "dialog-title"}, title), ...children, h("div", {class: "buttons"},
    h("button", {type: "button", onclick: () => dialog.close("")}, "Close")));
  dialog.onclose = null;
  dialog.showModal();
}
