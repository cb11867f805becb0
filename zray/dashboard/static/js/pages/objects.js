// Objects: who holds how much, made by which line, and each reference.
import {h} from "../dom.js";
import {bytes, count, shortId, shortTask} from "../format.js";
import {card, empty, redraw, setMeter, meter, text} from "../parts.js";
import {keyed} from "../dom.js";
import {Table} from "../table.js";

export function objects(context) {
  const stores = h("div", {class: "meters"});
  const holders = h("div");
  const sites = h("div");
  const table = new Table(context, {caption: "references", key: (row) => `${row.object_id}-${row.ip}-${row.pid}-${row.reference_type}`,
    filters: [{name: "reference_type", label: "Kind"}, {name: "task_status", label: "Task"}], none: "No process holds a reference.", columns: [
      {name: "object_id", label: "Object", show: (row) => h("code", {title: row.object_id}, `${shortTask(row.object_id.slice(0, 48))}`)},
      {name: "object_size", label: "Size", num: true, show: (row) => bytes(row.object_size)},
      {name: "reference_type", label: "Kind", show: (row) => row.reference_type.replaceAll("_", " ").toLowerCase()},
      {name: "task_status", label: "Task", show: (row) => text(row.task_status)},
      {name: "type", label: "Holder", from: ["type", "pid"], show: (row) => `${row.type.toLowerCase()}, pid ${row.pid}`},
      {name: "ip", label: "Address"},
      {name: "call_site", label: "Made at", wide: true, show: (row) => text(row.call_site)},
    ]});
  return {
    element: h("div", {class: "stack"}, card("Stores by node", stores), h("div", {class: "columns"}, card("By holder", holders),
      card("By line", sites)), card("References, the largest first", table.element)), view: "objects",
    update(data) {
      const lines = Object.entries(data.stores).flatMap(([node, store]) => [[`node ${shortId(node)}`, store.used, store.capacity, bytes],
        ...(store.spilled ? [[`node ${shortId(node)}, on disk`, store.spilled, store.spilled, bytes]] : [])]);
      keyed(stores, lines, (line) => line[0], (line) => meter(...line), (element, line) => setMeter(element, ...line));
      redraw(holders, data.holders, () => list(data.holders, (row) => `${row.type.toLowerCase()}, pid ${row.pid} at ${row.ip}`));
      redraw(sites, data.sites, () => data.sites.length === 1 && data.sites[0].site === "disabled"
        ? [empty("Lines are not recorded: set RAY_record_ref_creation_sites=1 for the next run.")] : list(data.sites, (row) => row.site));
      table.options("reference_type", [...new Set(data.table.rows.map((row) => row.reference_type))].sort());
      table.options("task_status", [...new Set(data.table.rows.map((row) => row.task_status))].sort());
      table.update(data.table);
    },
  };
}

function list(rows, label) {
  if (!rows.length) return [empty("Nothing is held.")];
  return [h("ul", {class: "list"}, ...rows.slice(0, 12).map((row) => h("li", {}, h("span", {class: "lead"}, h("b", {}, bytes(row.bytes)),
    " ", text(label(row) || "no line is known")), h("span", {class: "aside"}, `${count(row.count)} ${row.count === 1 ? "reference" : "references"}`))))];
}
