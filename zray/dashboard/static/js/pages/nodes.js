// Nodes: what each has, and how much of it is in use.
import {h, keyed, set, write} from "../dom.js";
import {bytes, clean, plain, shortId} from "../format.js";
import {badge, card, confirm, facts, meter, redraw, setBadge, setMeter, since, text} from "../parts.js";

export function nodes(context) {
  const cards = nodeCards(context, true);
  const stats = h("div");
  const element = h("div", {class: "stack"}, cards.element, card("The node that answers", stats));
  return {
    element, view: "nodes",
    update(data) {
      cards.update(data.nodes);
      redraw(stats, data.stats, () => [facts(Object.entries(data.stats).map(([name, value]) =>
        [name.replaceAll("_", " "), typeof value === "object" ? Object.entries(value).map(([state, n]) =>
          `${n} ${state.toLowerCase()}`).join(", ") || "none" : String(value)]))]);
    },
  };
}

export function nodeCards(context, full) {
  const element = h("div", {class: "nodes"});
  return {
    element,
    update(rows) {
      keyed(element, rows, (row) => row.node_id, () => make(context, full), (part, row) => update(part, row, full));
    },
  };
}

function make(context, full) {
  const title = h(full ? "h2" : "h3", {}, h("bdi", {}), " ", h("span", {class: "aside"}), " ", badge(""));
  const meters = h("div", {class: "meters"});
  const more = h("div");
  const part = h("article", {class: "node"}, title, meters, more);
  if (full) {
    part.append(h("button", {type: "button", class: "danger small", onclick: async () => {
      const row = part.zrayRow;
      if (await confirm("Drain this node?", `Node ${shortId(row.node_id)} (${clean(row.name)}) moves its objects to other ` +
          "nodes and ends. Its actors and running tasks end with it.", "Drain")) context.act("drain", row.node_id);
    }}, "Drain"));
  }
  return part;
}

function update(part, row, full) {
  part.zrayRow = row;
  const [title, meters, more, button] = part.children;
  write(title.children[0], clean(row.name || row.ip));
  write(title.children[1], `${shortId(row.node_id)}${row.head ? " · head" : ""}`);
  setBadge(title.children[2], row.state);
  const lines = row.state === "ALIVE" ? [
    ...Object.entries(row.use).map(([name, [used, total]]) => [name, used, total, name === "memory" ? bytes : plain]),
    ...(row.store.capacity ? [["object store", row.store.used, row.store.capacity, bytes]] : []),
    ...(full ? Object.entries(row.other).map(([name, [used, total]]) => [name, used, total, plain]) : [])] : [];
  keyed(meters, lines, (line) => line[0], (line) => meter(...line), (element, line) => setMeter(element, ...line));
  const spilled = row.store.spilled || 0;
  redraw(more, [row.message, spilled, full && [row.labels, row.ip, row.start_ms, row.end_ms]], () => [
    ...(row.message ? [h("p", {class: "why"}, text(row.message))] : []),
    ...(spilled ? [h("p", {class: "aside"}, `${bytes(spilled)} of objects are on disk`)] : []),
    ...(full ? [facts([["id", row.node_id], ["address", row.ip], row.end_ms ? ["ended", since(row.end_ms, " ago")]
      : ["up for", since(row.start_ms)], ["labels", Object.entries(row.labels || {}).map(([k, v]) => `${k}=${v}`).join(", ")]])] : [])]);
  if (button) set(button, {hidden: row.state !== "ALIVE"});
}
