// Jobs, placement groups, the control store, and events: tables with little else.
import {h, write} from "../dom.js";
import {clean, count, duration, shortId} from "../format.js";
import {address, badge, card, empty, link, redraw, since, text} from "../parts.js";
import {Table} from "../table.js";

export function jobs(context) {
  const table = new Table(context, {caption: "jobs", key: (row) => row.job_id, filters: [{name: "status", label: "Status",
    options: ["FAILED", "PENDING", "RUNNING", "STOPPED", "SUCCEEDED"]}], none: "No job has run.", columns: [
    {name: "job_id", label: "Job", num: true, show: (row) => link(address("tasks", {job_id: row.job_id}), String(parseInt(row.job_id, 16)))},
    {name: "status", label: "Status", show: (row) => badge(row.status)},
    {name: "entrypoint", label: "Program", wide: true, show: (row) => h("code", {}, text(row.entrypoint))},
    {name: "job_name", label: "Name", show: (row) => text(row.job_name || "")},
    {name: "submission_id", label: "Submitted as", show: (row) => text(row.submission_id || "")},
    {name: "start_time", label: "Time", num: true, from: ["start_time", "end_time"], show: (row) =>
      row.end_time ? duration(row.end_time - row.start_time) : since(row.start_time)},
    {name: "driver_info", label: "Driver", sort: false, show: (row) => `pid ${row.driver_info?.pid ?? "?"} at ${row.driver_info?.node_ip_address ?? "?"}`},
  ]});
  return {element: table.element, view: "jobs", update(data) { table.update(data.table); }};
}

export function groups(context) {
  const table = new Table(context, {caption: "placement groups", key: (row) => row.placement_group_id, filters: [{name: "state", label: "State",
    options: ["CREATED", "PENDING", "REMOVED", "RESCHEDULING"]}], none: "No placement group was made.", columns: [
    {name: "placement_group_id", label: "Id", show: (row) => h("code", {title: row.placement_group_id}, row.placement_group_id.slice(8, 16))},
    {name: "name", label: "Name", show: (row) => text(row.name || "")},
    {name: "state", label: "State", show: (row) => badge(row.state)},
    {name: "stats", label: "Why", sort: false, wide: true, show: (row) => text(row.stats?.detail || "")},
    {name: "bundles", label: "Bundles", sort: false, wide: true, show: bundles},
    {name: "creator_job_id", label: "Job", num: true, show: (row) => String(parseInt(row.creator_job_id || "0", 16))},
  ]});
  return {element: table.element, view: "groups", update(data) { table.update(data.table); }};
}

function bundles(row) {
  return h("ul", {class: "plainlist"}, ...(row.bundles || []).map((bundle, i) => h("li", {}, `${i}: `,
    text(Object.entries(bundle.unit_resources || {}).map(([name, amount]) => `${name} ${amount}`).join(", ")),
    bundle.node_id ? ` on ${shortId(bundle.node_id)}` : " without a place")));
}

export function control(context) {
  const about = h("div");
  const body = h("tbody");
  const element = h("div", {class: "stack"}, card("Voters", about), card("Chains, from head to tail",
    h("div", {class: "scroller", tabindex: 0, role: "region", "aria-label": "chains"}, h("table", {}, h("caption", {class: "unseen"}, "chains"),
      h("thead", {}, h("tr", {}, ...["Shard", "Epoch", "Members", "Joining"].map((label) => h("th", {scope: "col"}, label)))), body)),
    h("p", {class: "aside"}, "The state API does not have how far a member lags behind its head.")));
  const shown = (data, member) => {
    const node = data.names[member];
    return node ? `${clean(node.name)} (${member.slice(0, 8)})${node.state === "ALIVE" ? "" : ", dead"}` : member.slice(0, 8);
  };
  return {
    element, view: "control",
    update(data) {
      redraw(about, [data.generation, data.voters, data.trouble, data.names], () => [
        h("p", {}, `Configuration ${data.generation}. ${data.voters.length} ${data.voters.length === 1 ? "voter" : "voters"}: ${data.voters.map((v) => shown(data, v)).join(", ")}.`),
        data.trouble ? h("p", {class: "why bad"}, text(data.trouble)) : h("p", {class: "aside"}, "No trouble is known.")]);
      redraw(body, [data.chains, data.names], () => data.chains.map((chain) => h("tr", {},
        ...[["Shard", chain.shard], ["Epoch", chain.epoch], ["Members", chain.members.map((m) => shown(data, m)).join(" → ")],
          ["Joining", chain.joining ? shown(data, chain.joining) : "–"]].map(([label, value]) => h("td", {"data-label": label}, String(value))))));
    },
  };
}

export function events(context) {
  const table = new Table(context, {caption: "events", key: (row) => row.event_id, filters: [{name: "severity", label: "Severity"}],
    none: "No event was logged.", columns: [
      {name: "time", label: "Time", show: (row) => h("time", {}, row.time)},
      {name: "severity", label: "Severity", show: (row) => badge(row.severity)},
      {name: "message", label: "Event", wide: true, show: (row) => text(row.message)},
      {name: "custom_fields", label: "Node", sort: false, show: (row) => shortId(row.custom_fields?.node_id)},
    ]});
  return {element: table.element, view: "events", update(data) {
    table.options("severity", data.severities);
    table.update(data.table);
  }};
}
