// Requests to the server of this page.  The token lives in localStorage, which belongs to this address and port alone;
// it goes out in a header, so that no other page can use it.

const KEY = "zray-token";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function token() {
  return localStorage.getItem(KEY) || "";
}

export function keep(value) {
  if (value) localStorage.setItem(KEY, value);
  else localStorage.removeItem(KEY);
}

export async function call(path, parameters = {}, options = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined));
  const text = query.toString();
  const response = await fetch(`${path}${text ? "?" + text : ""}`, {
    ...options, headers: {...(options.headers || {}), Authorization: `Bearer ${token()}`}});
  if (!response.ok) {
    let message = `the dashboard answered ${response.status}`;
    try { message = (await response.json()).error || message; } catch { /* no JSON: the status says enough */ }
    throw new Refused(response.status, message);
  }
  return response;
}

export async function read(path, parameters = {}) {
  return (await call(path, parameters)).json();
}

export async function act(method, id, more = {}) {
  const response = await call("/api/act", {}, {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({method, id, ...more})});
  return (await response.json()).done;
}

// Server-sent events by fetch, since EventSource cannot send the token in a header.  Calls back for each event, and
// returns when the stream ends.
export async function stream(parameters, signal, onEvent) {
  const response = await call("/api/stream", parameters, {signal});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const block = rest.slice(0, end);
      rest = rest.slice(end + 2);
      let name = "message";
      let data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      onEvent(name, data ? JSON.parse(data) : null);
    }
  }
}
