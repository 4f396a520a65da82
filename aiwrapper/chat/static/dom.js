// Making elements. Text is always text here; markup has one door, in `trusted.js`.

/**
 * An element with properties, attributes and children.
 *
 * In `properties`, `class`, `role` and whatever has a dash is an attribute, `onX` a listener, the rest a property; null
 * and undefined are left out.
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class" || name === "role" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** One of the page's icons; it says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button with an icon, and a label that is seen (`text`) or only heard (`label`). */
export function button({ icon: name, text, label, ...properties }) {
  return element(
    "button",
    { type: "button", class: text ? "quiet" : "icon-button", "aria-label": label, title: label, ...properties },
    icon(name),
    text ? element("span", { textContent: text }) : null,
  );
}

/** Set what an element holds, touching nothing that is there already: focus and selections stay. */
export function setChildren(parent, children) {
  const kept = new Set(children);
  for (const child of [...parent.childNodes]) if (!kept.has(child)) child.remove();
  children.forEach((child, index) => {
    const there = parent.childNodes[index];
    if (there !== child) parent.insertBefore(child, there ?? null);
  });
}

/** Set a text only if it is another one, so that nothing is announced or painted for nothing. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
