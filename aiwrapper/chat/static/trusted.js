// The only place where text becomes markup. The page's Content-Security-Policy allows this one Trusted Types policy, so
// no other line of ours can hand a string to the HTML parser, by mistake or otherwise.
//
// What goes in is the HTML of one block, as the server rendered and sanitised it (`_rendering.py`), whole and never a delta.

const identity = { createHTML: (html) => html };
const policy = globalThis.trustedTypes?.createPolicy("rendered-by-the-server", identity) ?? identity;

/** Show a block: `html` comes from a `blocks` field of the server's events, and from nowhere else. */
export function showBlock(element, html) {
  element.innerHTML = policy.createHTML(html);
}
