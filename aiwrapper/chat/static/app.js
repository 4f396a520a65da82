// The page: one chat at a time, its stream, and what a person does.

import * as api from "./api.js";
import * as stopButton from "./button.js";
import { Composer, readFile } from "./composer.js";
import { Conversation } from "./conversation.js";
import { setText } from "./dom.js";
import { Messages } from "./messages.js";
import { toolWords } from "./parts.js";
import { Pinned } from "./pinned.js";
import { askForDeletion, askForSettings } from "./settings.js";
import { Side } from "./side.js";
import { Stream } from "./stream.js";
import { Title } from "./title.js";

const DEFAULT_SETTINGS = { model: null, instructions: "", tools: null };

const TITLE_CHARACTERS = 80;

const byId = (id) => document.getElementById(id);

class App {
  #chatId = null; // null: a chat that is made with its first message
  #settings = DEFAULT_SETTINGS; // of a chat that is still to be made
  #conversation = new Conversation();
  #button = stopButton.IDLE;
  #lost = new Set(); // runs whose request never got an answer
  #unconfirmed = null; // a timer, since the last stop was sent
  #chats = [];
  #options = { models: [], tools: [], limits: {}, attachment_types: [] };
  #announced = "";

  #stream = new Stream({
    event: (kind, event) => this.#take(kind, event),
    missed: () => this.#catchUp(),
    connection: (up) => {
      byId("connection").hidden = up;
    },
  });
  #others = new BroadcastChannel("aiwrapper"); // the other tabs; a tab hears nothing while no run of its chat lives
  #side = new Side({ onNew: () => this.#go("") });
  #title = new Title((title) => this.#change("title", { title }));
  #pinned = new Pinned(byId("scroller"), byId("to-end"));
  #composer = new Composer({
    send: (text, attachments) => this.#send(text, attachments),
    stop: () => this.#press({ type: "stop" }),
    upload: (file) => this.#upload(file),
  });
  #messages = new Messages(byId("messages"), {
    onEdit: (message, text) => this.#edit(message, text),
    onSwitch: (message_id) => this.#change("switch", { message_id }),
    onContinue: () => this.#ask("continue", {}),
    onRetry: (message_id) => this.#ask("retry", { message_id }),
    onCopy: (body) => this.#copy(body),
  });

  async start() {
    addEventListener("hashchange", () => this.#open());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#refresh());
    addEventListener("online", () => {
      this.#refresh();
      this.#press({ type: "unconfirmed" }); // a stop could not leave: do not let it wait any longer
    });
    this.#others.onmessage = ({ data }) => {
      if (data.chat === this.#chatId) this.#refresh();
      else this.#list();
    };
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
      if (document.querySelector("dialog[open]")) return; // Escape closes it
      this.#press({ type: "stop" });
    });
    byId("problem").querySelector("button").addEventListener("click", () => {
      byId("problem").hidden = true;
      this.#composer.focus();
    });
    byId("delete").addEventListener("click", () => this.#delete());
    byId("open-settings").addEventListener("click", () => this.#configure());
    await this.#open();
    await this.#attempt(async () => {
      this.#options = await api.read("options");
      this.#composer.accept(this.#options.attachment_types);
    });
  }

  // Which chat is shown

  #go(chatId) {
    if (location.hash.slice(1) === chatId) this.#open();
    else location.hash = chatId;
  }

  async #open() {
    this.#stream.follow(null);
    this.#chatId = location.hash.slice(1) || null;
    this.#settings = DEFAULT_SETTINGS;
    this.#conversation = new Conversation();
    this.#button = stopButton.IDLE;
    this.#announced = "";
    byId("problem").hidden = byId("connection").hidden = true;
    this.#draw();
    this.#pinned.toEnd();
    this.#composer.focus();
    await this.#refresh();
  }

  /** Ask for what is new where no stream tells: after a while in the background, or when another tab says so. */
  async #refresh() {
    this.#list();
    await this.#catchUp();
  }

  async #catchUp() {
    const chatId = this.#chatId;
    if (chatId === null) return;
    await this.#attempt(async () => {
      const snapshot = await api.snapshot(chatId);
      if (chatId !== this.#chatId) return;
      if (snapshot === null) return this.#leave();
      const known = this.#conversation.position;
      // The stream may have been faster.
      if (known === null || snapshot.position >= known) this.#take("snapshot", snapshot);
    });
  }

  /** Go from a chat that there is not: what is being written begins a new one. */
  #leave() {
    history.replaceState(null, "", "#"); // not in the way of who goes back
    this.#open();
    this.#say("This chat does not exist (any more). What you send begins a new one.");
  }

  async #list() {
    try {
      this.#chats = (await api.read("chats")).chats;
    } catch (error) {
      if (!(error instanceof api.Unreachable || error instanceof api.Refused)) throw error;
      return; // what is shown stays; the chat itself says what is wrong
    }
    this.#side.update(this.#chats, this.#chatId);
  }

  /** Take an event of the chat that is shown. */
  #take(kind, event) {
    this.#conversation.apply(kind, event);
    if (this.#conversation.chat?.deleted) return this.#go("");
    const wasLive = stopButton.isLive(this.#button);
    this.#press({ type: "log", run: this.#conversation.run, ended: this.#conversation.ended });
    if (wasLive && !stopButton.isLive(this.#button)) {
      this.#list();
      this.#others.postMessage({ chat: this.#chatId });
    }
  }

  // The button

  #press(event) {
    const { state, stop } = stopButton.next(this.#button, event);
    this.#button = state;
    this.#draw();
    const live = stopButton.isLive(state);
    this.#stream.follow(live ? this.#chatId : null, () => this.#conversation.position);
    if (!live) byId("connection").hidden = true;
    // Not anew with each event: while an answer streams, there are many in any two seconds.
    if (state.phase !== "stopping" || stop !== null) {
      clearTimeout(this.#unconfirmed);
      this.#unconfirmed = null;
    }
    if (state.phase === "stopping") {
      this.#unconfirmed ??= setTimeout(() => this.#press({ type: "unconfirmed" }), stopButton.CONFIRM_WITHIN_MS);
    }
    if (stop !== null) this.#stop(stop);
  }

  async #stop(runId) {
    const chatId = this.#chatId;
    let answer;
    try {
      answer = await api.change(chatId, "stop", { run_id: runId });
    } catch (error) {
      if (error instanceof api.Unreachable) return; // it is sent again until the log says that the run has ended
      return this.#complain(error);
    }
    if (chatId !== this.#chatId) return;
    if (answer.state === "ended") await this.#refresh();
    if (answer.state === "remembered" && this.#lost.has(runId)) this.#press({ type: "refused", runId });
  }

  // What a person asks for

  /** Ask for an answer; whether it will come. */
  async #ask(what, body) {
    if (stopButton.isLive(this.#button)) return false;
    const runId = api.newRunId();
    byId("problem").hidden = true;
    const chatId = this.#chatId;
    this.#press({ type: "send", runId });
    this.#pinned.toEnd();
    this.#composer.focus(); // what was pressed is gone; from here, Escape and Tab lead to Stop
    try {
      await api.change(chatId, what, { run_id: runId, ...body });
    } catch (error) {
      if (error instanceof api.Unreachable) this.#lost.add(runId);
      // A run that may be there, after all, is still to be stopped.
      if (error instanceof api.Refused || this.#button.phase !== "stopping") this.#press({ type: "refused", runId });
      this.#complain(error);
      return false;
    }
    if (chatId === this.#chatId) this.#press({ type: "taken", runId });
    this.#list();
    this.#others.postMessage({ chat: chatId });
    return true;
  }

  async #send(text, attachments) {
    if (this.#chatId === null && !(await this.#attempt(() => this.#make()))) return false;
    const title = text.trim().split("\n")[0].slice(0, TITLE_CHARACTERS);
    if (!this.#isTitled() && title && !(await this.#attempt(() => this.#name(title)))) return false;
    return this.#ask("send", { text, attachments });
  }

  /** A chat is called after the first words in it. */
  async #name(title) {
    await api.change(this.#chatId, "title", { title });
  }

  #isTitled() {
    return Boolean(this.#conversation.chat?.title) || this.#conversation.path().length > 0;
  }

  async #edit(message, text) {
    const attachments = message.parts.filter((part) => part.hash).map((part) => part.hash);
    return this.#ask("edit", { message_id: message.id, text, attachments });
  }

  async #make() {
    const { id } = await api.create(this.#settings);
    this.#chatId = id;
    history.pushState(null, "", `#${id}`);
  }

  async #change(what, body) {
    await this.#attempt(async () => {
      await api.change(this.#chatId, what, body);
      await this.#refresh();
      this.#others.postMessage({ chat: this.#chatId });
    });
  }

  async #upload(file) {
    let attached = null;
    await this.#attempt(async () => {
      if (this.#chatId === null) await this.#make();
      const { preview, ...read } = await readFile(file);
      attached = { ...(await api.change(this.#chatId, "attachments", read)), preview };
    });
    return attached;
  }

  async #configure() {
    const settings = await askForSettings(this.#conversation.chat?.settings ?? this.#settings, this.#options);
    if (settings === null) return;
    if (this.#chatId === null) this.#settings = settings;
    else await this.#change("configure", settings);
  }

  async #delete() {
    if (!(await askForDeletion())) return;
    await this.#attempt(async () => {
      const chatId = this.#chatId;
      await api.change(chatId, "delete");
      this.#others.postMessage({ chat: chatId });
      this.#go("");
    });
  }

  async #copy(body) {
    await this.#attempt(async () => {
      await navigator.clipboard.writeText(body.innerText);
      this.#announce("Copied");
    });
  }

  /** Do it, or say why it can't be done; whether it was. */
  async #attempt(action) {
    try {
      await action();
      return true;
    } catch (error) {
      this.#complain(error);
      return false;
    }
  }

  #complain(error) {
    this.#say(error.message);
    if (!(error instanceof api.Refused || error instanceof api.Unreachable)) throw error; // a bug: for the console, too
    if (error.code === api.UNKNOWN) this.#catchUp(); // the chat itself may be gone
  }

  #say(words) {
    const problem = byId("problem");
    setText(problem.firstElementChild, words);
    problem.hidden = false;
  }

  // What is shown

  #draw() {
    const conversation = this.#conversation;
    const live = stopButton.isLive(this.#button);
    const words = wordsFor(this.#button, conversation);
    this.#messages.update(conversation, { isLive: live, waiting: isSilent(conversation) ? words : "" });
    this.#composer.update(this.#button, live ? words : "");
    this.#title.update(this.#chatId, conversation.chat?.title || firstWords(conversation));
    byId("delete").hidden = this.#chatId === null;
    byId("empty").hidden = conversation.path().length > 0 || live;
    this.#pinned.update();
    // The live region is told of states, never of tokens: a screen reader would talk without end.
    if (live) this.#announce(words);
    else if (this.#announced) this.#announce(this.#button.phase === "stopped" ? "Stopped" : "The answer is complete");
  }

  #announce(words) {
    this.#announced = words;
    setText(byId("announcer"), words);
  }
}

/** What a chat is called that has no title. */
function firstWords(conversation) {
  const parts = conversation.path()[0]?.parts ?? [];
  return (parts.find((part) => part.kind === "text")?.text ?? "").trim().split("\n")[0].slice(0, 80);
}

/** Whether the last message says nothing new at the moment, so that something has to show that it is being waited. */
function isSilent(conversation) {
  const last = conversation.path().at(-1);
  if (last === undefined || last.role === "user") return true;
  if (last.state === "open") return last.parts.length === 0;
  const calls = last.parts.filter((part) => part.kind === "tool_call");
  return calls.length > 0 && calls.every((call) => call.state === "finished");
}

/** What is going on, in words. */
function wordsFor(button, conversation) {
  if (button.phase === "stopping") return "Stopping…";
  const run = conversation.run;
  if (run?.state === "retrying" && run.retry) {
    return `${run.retry.error} Trying again in ${Math.ceil(run.retry.seconds)} s.`;
  }
  if (button.phase === "running_tool") {
    const parts = conversation.path().at(-1)?.parts ?? [];
    const running = parts.filter((part) => part.kind === "tool_call" && part.state === "running");
    return running.map((part) => `${part.name} ${toolWords(part)}`).join(" ") || "A tool is running…";
  }
  return isSilent(conversation) ? "Waiting for the model…" : "Answering…";
}

await new App().start();
