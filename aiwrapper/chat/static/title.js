// The title in the head of the page, and its change in place.

import { setText } from "./dom.js";

export class Title {
  #heading = document.getElementById("title");
  #field = document.getElementById("title-field");
  #rename = document.getElementById("rename");
  #chatId = null;
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
    this.#rename.addEventListener("click", () => this.#open());
    this.#field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) this.#close({ save: true });
      else if (event.key === "Escape") this.#close({ save: false });
      else return;
      event.preventDefault();
    });
    this.#field.addEventListener("blur", () => this.#close({ save: true }));
  }

  update(chatId, title) {
    if (chatId !== this.#chatId) this.#close({ save: false });
    this.#chatId = chatId;
    setText(this.#heading, title || (chatId === null ? "New chat" : "Untitled"));
    document.title = title ? `${title} · aiwrapper` : "aiwrapper";
    this.#rename.hidden = chatId === null || !this.#field.hidden;
  }

  #open() {
    this.#field.value = this.#heading.textContent;
    this.#field.hidden = false;
    this.#heading.hidden = this.#rename.hidden = true;
    this.#field.select();
  }

  #close({ save }) {
    if (this.#field.hidden) return;
    const title = this.#field.value.trim();
    const changed = title !== "" && title !== this.#heading.textContent;
    const hadFocus = document.activeElement === this.#field;
    this.#field.hidden = true;
    this.#heading.hidden = this.#rename.hidden = false;
    if (hadFocus) this.#rename.focus();
    if (save && changed) {
      setText(this.#heading, title);
      this.#onChange(title);
    }
  }
}
