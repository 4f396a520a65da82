// Drawing the parts of a message. Each view has an `element` and takes its part again with `update`, which touches only
// what has changed: a selection in a closed block and an opened detail survive the growing of the rest.

import { element, icon, setText } from "./dom.js";
import { showBlock } from "./trusted.js";

/** A row of rendered blocks. */
class Blocks {
  element = element("div", { class: "prose" });
  #shown = [];

  update(blocks) {
    blocks.forEach((html, index) => {
      if (this.#shown[index] === html) return;
      if (index >= this.element.children.length) this.element.append(element("div", { class: "block" }));
      showBlock(this.element.children[index], html);
      this.#shown[index] = html;
    });
    while (this.element.children.length > blocks.length) this.element.lastChild.remove();
    this.#shown.length = blocks.length;
  }
}

class AnswerText {
  #blocks = new Blocks();
  element = this.#blocks.element;

  update(part) {
    this.#blocks.update(part.blocks);
  }
}

class UserText {
  element = element("div", { class: "plain" });

  update(part) {
    setText(this.element, part.text);
  }
}

class Reasoning {
  #blocks = new Blocks();
  #summary = element("summary");
  element = element("details", { class: "aside" }, this.#summary, this.#blocks.element);

  update(part, { state }) {
    const thinking = state === "open" && !part.complete;
    setText(this.#summary, thinking ? "Thinking…" : "What it thought");
    this.element.classList.toggle("busy", thinking);
    this.#blocks.update(part.blocks);
  }
}

const OUTCOMES = {
  returned: "done",
  raised: "failed",
  invalid_arguments: "was called with arguments it does not take",
  unknown_tool: "does not exist",
  denied: "was refused",
  not_started: "was not started",
  interrupted_running: "was stopped while it ran",
  sibling_failed: "was given up",
};

const STATES = { writing: "is being called…", waiting: "waits…", running: "is running…" };

/** What a tool call is doing, or what became of it, in words. */
export function toolWords(part, isCut = false) {
  if (part.state === "finished") return OUTCOMES[part.outcome] ?? part.outcome;
  return isCut ? "was never called: the answer was cut" : STATES[part.state];
}

class ToolCall {
  #mark = element("span", { class: "tool-mark" });
  #name = element("code");
  #words = element("span", { class: "tool-words" });
  #summary = element("summary", {}, this.#mark, this.#name, this.#words);
  #arguments = element("pre", { tabIndex: 0, "aria-label": "Arguments" });
  #result = element("pre", { tabIndex: 0, "aria-label": "Result" });
  element = element("details", { class: "aside tool" }, this.#summary, this.#arguments, this.#result);
  #shown = "";

  update(part, { state }) {
    const isCut = state === "stopped";
    const busy = !isCut && part.state !== "finished";
    const kind = busy ? "busy" : part.outcome === "returned" ? "good" : "bad";
    if (this.#shown !== kind) {
      this.#mark.replaceChildren(icon({ busy: "tool", good: "done", bad: "warning" }[kind]));
      this.element.classList.toggle("busy", busy);
      this.element.dataset.kind = this.#shown = kind;
    }
    this.element.dataset.state = part.state;
    setText(this.#name, part.name);
    setText(this.#words, toolWords(part, isCut));
    setText(this.#arguments, readable(part.arguments));
    setText(this.#result, part.result ?? "");
    this.#result.hidden = part.result === undefined || part.result === null;
  }
}

function readable(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // not whole yet
  }
}

class Picture {
  #image = element("img", { alt: "Attached image", decoding: "async" });
  element = element("a", { class: "picture", target: "_blank", rel: "noopener" }, this.#image);

  update(part) {
    if (this.element.getAttribute("href") === part.url) return;
    this.element.href = part.url;
    this.#image.src = part.url;
  }
}

class TextFile {
  #name = element("span");
  #text = element("pre", { tabIndex: 0, "aria-label": "Text of the file" });
  element = element("details", { class: "aside file" }, element("summary", {}, icon("file"), this.#name), this.#text);

  update(part) {
    setText(this.#name, part.name);
    setText(this.#text, part.text);
  }
}

const VIEWS = {
  "assistant text": AnswerText,
  "user text": UserText,
  "assistant reasoning": Reasoning,
  "assistant tool_call": ToolCall,
  "user image": Picture,
  "user file": TextFile,
};

/** The views of all parts of one message. */
export class Parts {
  element = element("div", { class: "parts" });
  #views = [];

  update(message) {
    message.parts.forEach((part, index) => {
      const kind = `${message.role} ${part.kind}`;
      let view = this.#views[index];
      if (view?.kind !== kind) {
        view = new VIEWS[kind]();
        view.kind = kind;
        if (this.#views[index]) this.#views[index].element.replaceWith(view.element);
        else this.element.append(view.element);
        this.#views[index] = view;
      }
      view.update(part, message);
    });
    for (const view of this.#views.splice(message.parts.length)) view.element.remove();
  }
}
