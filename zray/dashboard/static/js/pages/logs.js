// Log files of the live nodes, and the end of one.
import {h, write} from "../dom.js";
import {clean, cleanLines, shortId} from "../format.js";
import {redraw} from "../parts.js";

export function logs(context) {
  const node = h("select", {"aria-label": "Node"});
  const search = h("input", {type: "search", placeholder: "Search files", "aria-label": "Search files", autocomplete: "off"});
  const files = h("ul", {class: "files"});
  const title = h("h2", {}, "Choose a file");
  const lines = h("pre", {class: "log", tabindex: 0, role: "region", "aria-label": "the end of the file"});
  const element = h("div", {class: "logs"}, h("div", {class: "card"}, h("h2", {}, "Files"), node, search, files), h("div", {class: "card"}, title, lines));
  let last = null;
  node.addEventListener("change", () => context.change({node: node.value, file: "", actor: ""}));
  search.addEventListener("input", () => last && show(last));
  function show(data) {
    last = data;
    redraw(node, [data.nodes, data.node], () => data.nodes.map((one) => h("option", {value: one.node_id, selected: one.node_id === data.node},
      `${clean(one.name)} (${shortId(one.node_id)})`)));
    const wanted = search.value.toLowerCase();
    const shown = data.files.filter((name) => name.toLowerCase().includes(wanted)).slice(0, 300);
    redraw(files, [shown, data.file], () => shown.map((name) => h("li", {}, h("button", {type: "button", class: "file",
      "aria-pressed": String(name === data.file), onclick: () => context.change({file: name, actor: ""})}, clean(name)))));
    if (!data.file) return;
    write(title, `${clean(data.file)}: its last lines`);
    const atEnd = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 30;
    const before = lines.textContent;
    write(lines, cleanLines(data.text) || "The file is empty.");
    if (atEnd && lines.textContent !== before) lines.scrollTop = lines.scrollHeight;
  }
  return {element, view: "logs", update: show};
}
