// Drawing a conversation: the path from the first message to the head, with what can be done about each.

import { button, element, icon, setChildren, setText } from "./dom.js";
import { Parts } from "./parts.js";

const STOPPED = {
  user: "Stopped by you",
  shutdown: "Stopped: the server was shut down",
  crash: "Stopped: the server went away in the middle",
  deadline: "Stopped: it took too long",
  signal: "Stopped from the terminal",
};

/** How a run ended, in words; empty if it has simply answered. */
export function outcomeWords(run) {
  if (run?.status === "stopped") {
    return STOPPED[run.reason] ?? `Stopped: ${run.message || run.reason}`;
  }
  if (run?.status === "failed") return run.message || "The answer failed.";
  return "";
}

/** `< 2/3 >`: stepping through the branches at a message. */
class Branches {
  #words = element("span");
  #left;
  #right;
  #ids = [];
  #at = 0;

  constructor(onSwitch) {
    const step = (by) => onSwitch(this.#ids[this.#at + by]);
    this.#left = button({ icon: "left", label: "Previous version", onclick: () => step(-1) });
    this.#right = button({ icon: "right", label: "Next version", onclick: () => step(1) });
    this.element = element("div", { class: "branches", role: "group", "aria-label": "Versions" }, this.#left, this.#words, this.#right);
  }

  update(ids, id, isLive) {
    this.#ids = ids;
    this.#at = ids.indexOf(id);
    this.element.hidden = ids.length < 2;
    setText(this.#words, `${this.#at + 1}/${ids.length}`);
    this.#words.setAttribute("aria-label", `Version ${this.#at + 1} of ${ids.length}`);
    this.#left.disabled = isLive || this.#at === 0;
    this.#right.disabled = isLive || this.#at === ids.length - 1;
  }
}

class UserItem {
  #parts = new Parts();
  #branches;
  #edit;
  #editor = null;
  #actions;
  #item = null;
  #onEdit;

  constructor({ onEdit, onSwitch }) {
    this.#onEdit = onEdit;
    this.#branches = new Branches(onSwitch);
    this.#edit = button({ icon: "edit", label: "Edit this message", onclick: () => this.#open() });
    this.#actions = element("div", { class: "actions" }, this.#branches.element, this.#edit);
    this.element = element("article", { class: "message user", "aria-label": "You" }, this.#parts.element, this.#actions);
  }

  update(item, { conversation, isLive }) {
    const [message] = item.messages;
    this.#item = item;
    this.element.classList.toggle("synthetic", message.synthetic);
    this.element.setAttribute("aria-label", message.synthetic ? "You asked it to go on" : "You");
    this.#parts.update(message);
    this.#branches.update(conversation.branches(message), message.id, isLive);
    this.#edit.hidden = message.synthetic;
    this.#edit.disabled = isLive;
  }

  #open() {
    if (this.#editor) return;
    const [message] = this.#item.messages;
    const written = message.parts.filter((part) => part.kind === "text").map((part) => part.text);
    const field = element("textarea", { value: written.join("\n\n"), "aria-label": "Edit your message" });
    const close = () => {
      this.#editor.remove();
      this.#editor = null;
      this.#parts.element.hidden = this.#actions.hidden = false;
    };
    const leave = () => {
      close();
      this.#edit.focus();
    };
    const save = async () => {
      if (await this.#onEdit(message, field.value)) close();
    };
    this.#editor = element(
      "form",
      {
        class: "editor",
        onsubmit: (event) => {
          event.preventDefault();
          save();
        },
        onkeydown: (event) => {
          if (event.key === "Escape") {
            event.stopPropagation();
            leave();
          } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            save();
          }
        },
      },
      field,
      element(
        "div",
        { class: "dialog-foot" },
        element("button", { type: "button", textContent: "Cancel", onclick: leave }),
        element("button", { type: "submit", class: "primary", textContent: "Send" }),
      ),
    );
    this.#parts.element.hidden = this.#actions.hidden = true;
    this.element.append(this.#editor);
    field.focus();
  }
}

/** An answer, or the outcome of a run that said nothing. */
class AnswerItem {
  #messages = new Map();
  #body = element("div", { class: "answer-body" });
  #waiting = element("p", { class: "waiting" }, element("span", { class: "dots", "aria-hidden": "true" }), element("span"));
  #outcomeText = element("span");
  #outcome = element("p", { class: "outcome" });
  #branches;
  #copy;
  #continue;
  #again;
  #item = null;

  constructor({ onContinue, onRetry, onSwitch, onCopy }) {
    this.#branches = new Branches(onSwitch);
    this.#copy = button({ icon: "copy", label: "Copy this answer", onclick: () => onCopy(this.#body) });
    this.#continue = button({ icon: "continue", text: "Continue", onclick: onContinue });
    this.#again = button({ icon: "again", text: "Regenerate", onclick: () => onRetry(this.#retried()) });
    const actions = [this.#branches.element, this.#continue, this.#again, this.#copy];
    this.element = element(
      "article",
      { class: "message answer", "aria-label": "Answer" },
      this.#body,
      this.#waiting,
      this.#outcome,
      element("div", { class: "actions" }, ...actions),
    );
  }

  #retried() {
    return this.#item.messages[0]?.id ?? this.#item.run.message_id;
  }

  update(item, { conversation, isLive, isLast, waiting }) {
    this.#item = item;
    for (const message of item.messages) {
      if (!this.#messages.has(message.id)) this.#messages.set(message.id, new Parts());
      this.#messages.get(message.id).update(message);
    }
    setChildren(this.#body, item.messages.map((message) => this.#messages.get(message.id).element));
    this.#waiting.hidden = waiting === "";
    setText(this.#waiting.lastChild, waiting);
    this.element.setAttribute("aria-busy", String(isLast && isLive));

    const words = outcomeWords(item.run);
    const failed = item.run?.status === "failed";
    if (words && this.#outcomeText.textContent !== words) {
      this.#outcomeText.textContent = words;
      this.#outcome.replaceChildren(icon(failed ? "warning" : "stop"), this.#outcomeText);
    }
    this.#outcome.hidden = words === "";
    this.element.dataset.status = item.run?.status ?? "open";

    const [first] = item.messages;
    if (first) this.#branches.update(conversation.branches(first), first.id, isLive);
    else this.#branches.element.hidden = true;
    const mayAsk = isLast && !isLive;
    this.#continue.hidden = !(mayAsk && words !== "" && first);
    this.#again.hidden = !mayAsk;
    setText(this.#again.lastChild, failed ? "Retry" : "Regenerate");
    this.#copy.hidden = !first || (isLast && isLive);
  }
}

/** The column of messages. */
export class Messages {
  #root;
  #views = new Map();
  #actions;

  /** `actions`: `onEdit`, `onSwitch`, `onContinue`, `onRetry`, `onCopy`. */
  constructor(root, actions) {
    this.#root = root;
    this.#actions = actions;
  }

  /** Draw; `isLive` says whether a run lives, `waiting` what it waits for ("" for nothing). */
  update(conversation, { isLive, waiting }) {
    const items = conversation.items();
    if (isLive && waiting && items.at(-1)?.kind !== "answer") {
      items.push({ key: "waiting", kind: "answer", messages: [], run: null });
    }
    const views = new Map();
    items.forEach((item, index) => {
      const isLast = index === items.length - 1;
      const view =
        this.#views.get(item.key) ??
        (item.kind === "user" ? new UserItem(this.#actions) : new AnswerItem(this.#actions));
      view.update(item, { conversation, isLive, isLast, waiting: isLast && isLive ? waiting : "" });
      views.set(item.key, view);
    });
    this.#views = views;
    setChildren(this.#root, [...views.values()].map((view) => view.element));
  }
}
