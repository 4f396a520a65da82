// The message field, its attachments, and the one button that sends and stops.

import { isLive } from "./button.js";
import { button, element, icon, setText } from "./dom.js";

const LABELS = {
  idle: "Send",
  stopped: "Send",
  starting: "Stop",
  streaming: "Stop",
  running_tool: "Stop",
  stopping: "Stopping…",
};

export class Composer {
  #form = document.getElementById("composer");
  #field = document.getElementById("text");
  #send = document.getElementById("send");
  #files = document.getElementById("files");
  #list = document.getElementById("attachments");
  #state = document.getElementById("state");
  #attached = []; // {hash, name, media_type, preview}
  #uploads = 0;
  #isLive = false;
  #on;

  /**
   * `on`: `send(text, hashes)` resolves to whether it was taken; `stop()`; `upload(file)` resolves to the attachment, or
   * to null if it was refused.
   */
  constructor(on) {
    this.#on = on;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#isLive) this.#on.stop();
      else this.#submit();
    });
    this.#field.addEventListener("keydown", (event) => {
      // While an input method composes a character, Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.#isLive) this.#submit();
    });
    this.#field.addEventListener("input", () => this.#fit());
    this.#field.addEventListener("paste", (event) => this.#attach(event.clipboardData.files, event));
    this.#form.addEventListener("dragover", (event) => event.preventDefault());
    this.#form.addEventListener("drop", (event) => this.#attach(event.dataTransfer.files, event));
    document.getElementById("attach").addEventListener("click", () => this.#files.click());
    this.#files.addEventListener("change", async () => {
      await this.#attach([...this.#files.files]);
      this.#files.value = "";
    });
  }

  /** Put the cursor into the field, except on a touch screen, where it would bring up the keyboard uncalled for. */
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) this.#field.focus();
  }

  /** What may be attached: the media types. */
  accept(types) {
    this.#files.accept = types.join(",");
  }

  /** Show the state of the button, and beside it what is going on. */
  update(state, words) {
    this.#isLive = isLive(state);
    const label = LABELS[state.phase];
    this.#send.dataset.phase = state.phase;
    this.#send.classList.toggle("stops", this.#isLive);
    if (this.#send.lastChild.textContent !== label) {
      this.#send.firstChild.firstChild.setAttribute("href", this.#isLive ? "#icon-stop" : "#icon-send");
      setText(this.#send.lastChild, label);
    }
    // Not `disabled`: the focus would be lost, and with it the place of who works with the keyboard.
    this.#send.setAttribute("aria-disabled", String(state.phase === "stopping" || this.#isEmpty));
    setText(this.#state, words === label ? "" : words);
  }

  get #isEmpty() {
    return !this.#isLive && (this.#uploads > 0 || (this.#field.value.trim() === "" && this.#attached.length === 0));
  }

  async #submit() {
    if (this.#isEmpty || this.#field.readOnly) return;
    this.#field.readOnly = true;
    const hashes = this.#attached.map((each) => each.hash);
    try {
      if (!(await this.#on.send(this.#field.value, hashes))) return;
      this.#field.value = "";
      this.#attached = [];
    } finally {
      this.#field.readOnly = false;
      this.#draw();
      this.#fit();
    }
  }

  #fit() {
    this.#send.setAttribute("aria-disabled", String(this.#isEmpty));
    // Where the browser sizes fields to their content, the style sheet asks it to.
    if (CSS.supports("field-sizing", "content")) return;
    this.#field.rows = Math.min(10, this.#field.value.split("\n").length);
  }

  async #attach(files, event) {
    if (files.length === 0) return;
    event?.preventDefault();
    this.#uploads += 1;
    this.#fit();
    try {
      for (const file of files) {
        const attached = await this.#on.upload(file);
        if (attached) this.#attached.push(attached);
        this.#draw();
      }
    } finally {
      this.#uploads -= 1;
      this.#fit();
    }
  }

  #draw() {
    const items = this.#attached.map((each) =>
      element(
        "li",
        {},
        each.preview ? element("img", { src: each.preview, alt: "" }) : icon("file"),
        element("span", { textContent: each.name }),
        button({
          icon: "close",
          label: `Remove ${each.name}`,
          onclick: () => {
            this.#attached = this.#attached.filter((other) => other !== each);
            this.#draw();
            this.#fit();
            this.focus();
          },
        }),
      ),
    );
    this.#list.replaceChildren(...items);
    this.#list.hidden = items.length === 0;
  }
}

/** A file as the protocol wants it, with a preview for images. */
export async function readFile(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  const media_type = file.type || "text/plain";
  return {
    name: file.name || "pasted",
    media_type,
    data: url.slice(url.indexOf(",") + 1),
    preview: media_type.startsWith("image/") ? url : null,
  };
}
