// The stream of the chat that the page looks at: only while it is wanted and the page is visible.

import { Following } from "./following.js";

export class Stream {
  #chatId = null;
  #position = () => null;
  #following = null;
  #on;

  /** `on`: as for `Following`. */
  constructor(on) {
    this.#on = on;
    document.addEventListener("visibilitychange", () => this.#update());
    addEventListener("online", () => this.#following?.reopen());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", () => this.#update());
    for (const used of ["focus", "pointerdown", "keydown"]) {
      addEventListener(used, () => this.#following?.use(), { capture: true });
    }
  }

  /** Follow this chat from where `position()` says; null for none. */
  follow(chatId, position = () => null) {
    if (chatId === this.#chatId) return;
    this.#close();
    this.#chatId = chatId;
    this.#position = position;
    this.#update();
  }

  #update() {
    if (this.#chatId === null || document.visibilityState !== "visible") this.#close();
    else this.#following ??= new Following(this.#chatId, this.#position, this.#on);
  }

  #close() {
    this.#following?.close();
    this.#following = null;
  }
}
