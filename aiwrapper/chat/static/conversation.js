// What the page knows of one chat: the server's events, put together. Pure; the drawing is in `messages.js`.
//
// Every event is an upsert, so one that comes twice changes nothing; a snapshot replaces all.

export class Conversation {
  constructor() {
    this.#forget();
  }

  #forget() {
    this.position = null;
    this.chat = null;
    this.runs = new Map(); // by id, in the order in which they ended
    this.messages = new Map(); // by id
    this.children = new Map(); // parent id or null -> ids, oldest first
  }

  /** Take an event of the stream; `kind` is `snapshot` or `change`. */
  apply(kind, event) {
    if (kind === "snapshot") this.#forget();
    if (event.position !== undefined) this.position = event.position;
    if (event.chat !== undefined) this.chat = event.chat;
    for (const run of event.runs ?? []) this.runs.set(run.id, run);
    for (const message of event.messages ?? []) this.#setMessage(message);
    for (const { message_id, part, value } of event.parts ?? []) {
      const message = this.messages.get(message_id);
      if (message) message.parts[part] = value;
    }
    for (const { message_id, part, block, html } of event.blocks ?? []) {
      const blocks = this.messages.get(message_id)?.parts[part]?.blocks;
      if (!blocks) continue;
      if (html === null) blocks.length = Math.min(blocks.length, block);
      else blocks[block] = html;
    }
  }

  #setMessage(message) {
    const known = this.messages.get(message.id);
    if (!known) {
      const siblings = this.children.get(message.parent_id) ?? [];
      this.children.set(message.parent_id, [...siblings, message.id]);
    }
    this.messages.set(message.id, { ...known, ...message, parts: message.parts ?? known?.parts ?? [] });
  }

  /** The run that lives, or null. */
  get run() {
    return this.chat?.run ?? null;
  }

  /** The status of each run that has ended, by id. */
  get ended() {
    return Object.fromEntries([...this.runs].map(([id, run]) => [id, run.status]));
  }

  /** The messages from the first to the head. */
  path() {
    const path = [];
    let message = this.messages.get(this.chat?.head_id);
    while (message) {
      path.push(message);
      message = this.messages.get(message.parent_id);
    }
    return path.reverse();
  }

  /** A message and its branches, oldest first: the ids. */
  branches(message) {
    return this.children.get(message.parent_id) ?? [message.id];
  }

  /**
   * What is shown, from top to bottom: `{key, kind, messages, run}`.
   *
   * `user`: one message. `answer`: all that one run said. `outcome`: a run that ended without a word.
   */
  items() {
    const items = [];
    for (const message of this.path()) {
      const last = items.at(-1);
      if (message.role === "user") {
        items.push({ key: message.id, kind: "user", messages: [message], run: null });
      } else if (last?.kind === "answer" && last.messages[0].run_id === message.run_id) {
        last.messages.push(message);
      } else {
        const run = this.runs.get(message.run_id) ?? null;
        items.push({ key: message.id, kind: "answer", messages: [message], run });
      }
    }
    const head = items.at(-1);
    if (head?.kind === "user" && this.run === null) {
      const run = [...this.runs.values()].filter((each) => each.message_id === head.key).at(-1);
      if (run) items.push({ key: `outcome ${run.id}`, kind: "outcome", messages: [], run });
    }
    return items;
  }
}
