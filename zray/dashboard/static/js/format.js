// Numbers, times, sizes and ids for people.

let offset = 0;  // of the server's clock from this one's, in milliseconds

export function setClock(serverMs) {
  offset = serverMs - Date.now();
}

export function now() {
  return Date.now() + offset;
}

export function duration(ms) {
  if (ms < 0) ms = 0;
  if (ms < 1) return "<1 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function bytes(n) {
  if (n === null || n === undefined || n < 0) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i += 1; }
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function count(n) {
  return n === null || n === undefined ? "–" : Number(n).toLocaleString("en");
}

export function plain(n) {
  if (n === null || n === undefined) return "–";
  if (Number.isInteger(n)) return count(n);
  return Math.abs(n) >= 100 ? n.toFixed(0) : Number(n.toPrecision(3)).toString();
}

export function clock(ms) {
  return ms ? new Date(ms).toLocaleTimeString("en-GB") : "–";
}

export function moment(ms) {
  if (!ms) return "–";
  const date = new Date(ms);
  return `${date.toLocaleDateString("sv")} ${date.toLocaleTimeString("en-GB")}`;
}

// A line of text on which nothing can hide: controls and marks of direction are shown by their numbers.
export function clean(text) {
  return String(text ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (c) =>
    c === "\n" ? "⏎" : c === "\t" ? " " : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// The same for texts of several lines.
export function cleanLines(text) {
  return String(text ?? "").split("\n").map(clean).join("\n");
}

// Task ids as messages of zray show them: the attempt of the parent, and a number.
export function shortTask(id) {
  if (!id || id.length < 48) return id || "–";
  const number = id.slice(32, 48).match(/../g).reverse().join("").replace(/^0+/, "");
  return `${id.slice(8, 16)}:${parseInt(number || "0", 16)}`;
}

export function shortId(id) {
  return id ? id.slice(0, 8) : "–";
}

export function shortActor(id) {
  return id ? id.slice(8, 16) : "–";
}
