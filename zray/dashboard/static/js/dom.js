// Elements are made here and nowhere from text of HTML: whatever a name contains stays text.

const SVG = "http://www.w3.org/2000/svg";

// h("td", {class: "num", onclick: f}, "text", element, ...)
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  set(element, properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  set(element, properties);
  element.append(...children);
  return element;
}

export function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
  }
}

// Write a text only when it differs: what does not change is not drawn again, and a selection in it stays.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// The children of `parent` become one element for each item, in order; elements of known keys are kept.
export function keyed(parent, items, keyOf, make, update) {
  const known = parent.zrayKeys || (parent.zrayKeys = new Map());
  const next = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    let key = String(keyOf(item));
    while (next.has(key)) key += "'";
    let element = known.get(key);
    if (!element) element = make(item);
    next.set(key, element);
    update(element, item);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  for (const [key, element] of known) if (!next.has(key)) element.remove();
  parent.zrayKeys = next;
}
