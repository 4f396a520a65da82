// The list of chats, and on a narrow screen the drawer that it stands in.

import { element, setChildren, setText } from "./dom.js";

export class Side {
  #side = document.getElementById("side");
  #list = document.getElementById("chats");
  #main = document.getElementById("main");
  #opener = document.getElementById("open-side");
  #narrow = matchMedia("(max-width: 760px)");
  #items = new Map();
  #isOpen = false;

  constructor({ onNew }) {
    this.#opener.addEventListener("click", () => this.open());
    for (const id of ["close-side", "scrim"]) {
      document.getElementById(id).addEventListener("click", () => this.close());
    }
    document.getElementById("new-chat").addEventListener("click", () => {
      this.close();
      onNew();
    });
    this.#list.addEventListener("click", (event) => event.target.closest("a") && this.close());
    this.#side.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#isOpen) {
        event.stopPropagation();
        this.close();
      }
    });
    this.#narrow.addEventListener("change", () => this.#place());
    this.#place();
  }

  open() {
    this.#isOpen = true;
    this.#place();
    document.getElementById("close-side").focus();
  }

  close() {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#place();
    this.#opener.focus();
  }

  #place() {
    const drawer = this.#narrow.matches;
    const open = drawer && this.#isOpen;
    document.body.classList.toggle("side-open", open);
    this.#opener.setAttribute("aria-expanded", String(open));
    // What is behind the drawer, or the drawer that is out of sight, takes no focus.
    this.#side.inert = drawer && !open;
    this.#main.inert = open;
  }

  /** Draw the list; `current` is the id of the chat that is shown. */
  update(chats, current) {
    const items = new Map();
    for (const chat of chats) {
      const item = this.#items.get(chat.id) ?? this.#make(chat.id);
      setText(item.title, chat.title || chat.preview || "New chat");
      item.dot.hidden = !chat.running;
      if (chat.id === current) item.link.setAttribute("aria-current", "page");
      else item.link.removeAttribute("aria-current");
      items.set(chat.id, item);
    }
    this.#items = items;
    setChildren(this.#list, [...items.values()].map((item) => item.element));
  }

  #make(id) {
    const title = element("span");
    const dot = element("span", { class: "dot", role: "img", "aria-label": "being answered" });
    const link = element("a", { href: `#${id}` }, title, dot);
    return { element: element("li", {}, link), link, title, dot };
  }
}
