// Elements.

// element("p", { class: "quiet", onclick: f }, "text", child) -> HTMLElement. Attributes that are null or false are left
// out. Strings become text nodes, so a prompt can never become markup.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function button(words, onclick, attributes = {}) {
  return element("button", { type: "button", class: "plain", onclick, ...attributes }, words);
}

// Sets text only if it differs, so that a screen reader does not repeat it.
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// Makes `wanted` the children of a list. Touches only what has changed: the focus and the pictures of the others stay.
export function arrange(list, wanted) {
  const keep = new Set(wanted);
  for (const child of [...list.children]) if (!keep.has(child)) child.remove();
  wanted.forEach((child, index) => {
    if (list.children[index] !== child) list.insertBefore(child, list.children[index] ?? null);
  });
}

// Offers bytes as a download.
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
