// A table of the server's rows: it sorts, searches, filters and pages there, and keeps the rows that stay.
import {h, keyed, set, write} from "./dom.js";
import {count} from "./format.js";

// columns: [{name, label, show(row) -> node or text, num, sort: false}]; context: {parameters, change(parameters)}
export class Table {
  constructor(context, {caption, key, columns, filters = [], search = true, limit = 50, none = "Nothing is here."}) {
    this.context = context;
    this.key = key;
    this.columns = columns;
    this.none = none;
    this.limit = limit;
    this.body = h("tbody");
    this.heads = columns.map((column) => this.head(column));
    this.status = h("p", {class: "table-status", role: "status"});
    this.filters = filters.map((filter) => this.filter(filter));
    this.back = h("button", {type: "button", onclick: () => this.page(-1)}, "Previous");
    this.next = h("button", {type: "button", onclick: () => this.page(1)}, "Next");
    this.input = search ? h("input", {type: "search", placeholder: "Search", "aria-label": `Search ${caption}`,
      value: context.parameters.search || "", autocomplete: "off", spellcheck: "false"}) : null;
    let timer = 0;
    if (this.input) this.input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => context.change({search: this.input.value, offset: ""}), 250);
    });
    this.scroller = h("div", {class: "scroller", tabindex: 0, role: "region", "aria-label": caption},
      h("table", {}, h("caption", {class: "unseen"}, caption), h("thead", {}, h("tr", {}, ...this.heads)), this.body));
    this.element = h("div", {class: "table"},
      h("div", {class: "table-tools"}, this.input, ...this.filters.map((filter) => filter.element), this.status,
        h("div", {class: "pager"}, this.back, this.next)), this.scroller);
  }

  head(column) {
    if (column.sort === false) return h("th", {scope: "col", class: column.num ? "num" : null}, column.label);
    return h("th", {scope: "col", class: column.num ? "num" : null, "data-name": column.name},
      h("button", {type: "button", class: "sort", onclick: () => this.sort(column.name)}, column.label));
  }

  filter({name, label, options}) {
    const select = h("select", {"aria-label": label});
    select.addEventListener("change", () => this.context.change({[name]: select.value, offset: ""}));
    const filter = {name, label, select, element: select, known: ""};
    this.fill(filter, options || []);
    return filter;
  }

  fill(filter, options) {
    const chosen = this.context.parameters[filter.name] || "";
    const all = chosen && !options.includes(chosen) ? [...options, chosen] : options;
    if (filter.known === JSON.stringify(all)) return;
    filter.known = JSON.stringify(all);
    filter.select.replaceChildren(h("option", {value: ""}, `${filter.label}: all`),
      ...all.map((value) => h("option", {value, selected: value === chosen}, value)));
  }

  options(name, values) {
    this.fill(this.filters.find((filter) => filter.name === name), values);
  }

  sort(name) {
    const now = this.context.parameters;
    const turned = now.sort === name ? (now.order === "desc" ? "asc" : "desc") : "asc";
    this.context.change({sort: name, order: turned === "desc" ? "desc" : "", offset: ""});
  }

  page(step) {
    const offset = Math.max(0, Number(this.context.parameters.offset || 0) + step * this.limit);
    this.context.change({offset: offset || ""});
  }

  update(table) {
    const {sort, order} = this.context.parameters;
    for (const head of this.heads) {
      set(head, {"aria-sort": head.dataset.name && head.dataset.name === sort
        ? (order === "desc" ? "descending" : "ascending") : null});
    }
    keyed(this.body, table.rows, this.key, () => h("tr", {}, ...this.columns.map((column) =>
      h("td", {class: column.num ? "num" : column.wide ? "wide" : null, "data-label": column.label}))), (line, row) => {
      this.columns.forEach((column, i) => show(line.children[i], column, row));
    });
    this.scroller.hidden = table.rows.length === 0;
    const first = table.offset + 1;
    const last = table.offset + table.rows.length;
    const narrowed = table.matched < table.kept ? `, chosen from ${count(table.kept)}` : "";
    const more = table.total > table.kept ? ` (the session has ${count(table.total)}; the newest are here)` : "";
    write(this.status, table.rows.length ? `${count(first)}–${count(last)} of ${count(table.matched)}${narrowed}${more}`
      : table.kept ? "No row matches." : this.none);
    this.back.disabled = table.offset === 0;
    this.next.disabled = last >= table.matched;
    this.back.parentElement.hidden = this.back.disabled && this.next.disabled;
  }
}

// Fill a cell only when the values behind it have changed.
function show(cell, column, row) {
  const used = column.from ? column.from.map((name) => row[name]) : [row[column.name]];
  const key = JSON.stringify(used);
  if (cell.zrayKey === key) return;
  cell.zrayKey = key;
  const shown = column.show ? column.show(row) : row[column.name];
  cell.replaceChildren(shown instanceof Node ? shown : h("bdi", {}, String(shown ?? "–")));
}
