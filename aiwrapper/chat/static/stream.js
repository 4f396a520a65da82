// The event stream of a chat: open only while it is wanted, the page is visible and one of the slots is ours.
//
// A browser opens six connections to a server over HTTP/1.1, for all tabs together. A stream keeps one, so six of them
// and the browser never sends the Stop. A hidden tab closes its stream, but six windows beside each other are all
// visible: so there are four slots, shared by all tabs through the Web Locks API, and the tab that is used takes one
// from another, which waits until one is free. A stream resumes by its position, so nobody misses anything.

import { eventsUrl } from "./api.js";

const SLOTS = 4;
const AGAIN_AFTER_MS = 2000; // as long as browsers wait by themselves before they connect again

export class Stream {
  #chatId = null;
  #position = () => null;
  #source = null;
  #slot = null; // releases it
  #asking = null; // an AbortController while we wait for a slot
  #again = null; // a timer
  #onEvent;
  #onConnection;

  /**
   * `onEvent(kind, data)` takes the events; `onConnection(up)` is told when the stream is lost and when it is back.
   */
  constructor({ onEvent, onConnection }) {
    this.#onEvent = onEvent;
    this.#onConnection = onConnection;
    document.addEventListener("visibilitychange", () => this.#update());
    addEventListener("online", () => this.#reopen());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", () => this.#update());
    for (const used of ["focus", "pointerdown", "keydown"]) {
      addEventListener(used, () => this.#asking && this.#ask({ steal: true }), { capture: true });
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

  get #isWanted() {
    return this.#chatId !== null && document.visibilityState === "visible";
  }

  #update() {
    if (!this.#isWanted) this.#close();
    else if (this.#slot) this.#open();
    else if (!this.#asking) this.#ask({ steal: document.hasFocus() });
  }

  #ask({ steal }) {
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    takeSlot({ steal, signal: asking.signal, onLost: () => this.#lose() }).then(
      (release) => {
        if (this.#asking !== asking) return release();
        this.#asking = null;
        this.#slot = release;
        this.#update();
      },
      () => {}, // we asked no longer
    );
  }

  #lose() {
    this.#slot = null;
    this.#close();
    if (this.#isWanted) this.#ask({ steal: false });
  }

  #open() {
    if (this.#source) return;
    const source = (this.#source = new EventSource(eventsUrl(this.#chatId, this.#position())));
    for (const kind of ["snapshot", "change"]) {
      source.addEventListener(kind, (event) => this.#onEvent(kind, JSON.parse(event.data)));
    }
    source.onopen = () => this.#onConnection(true);
    source.onerror = () => {
      this.#onConnection(false);
      // The browser connects again by itself after a lost connection, but not after a refusal.
      if (source.readyState === EventSource.CLOSED && source === this.#source) {
        this.#again = setTimeout(() => this.#reopen(), AGAIN_AFTER_MS);
      }
    };
  }

  #reopen() {
    if (!this.#source) return;
    this.#closeSource();
    this.#update();
  }

  #closeSource() {
    clearTimeout(this.#again);
    this.#source?.close();
    this.#source = null;
  }

  #close() {
    this.#closeSource();
    this.#asking?.abort();
    this.#asking = null;
    this.#slot?.();
    this.#slot = null;
  }
}

/** Resolves to a function that gives the slot back. `onLost` is called if another tab takes it. */
function takeSlot({ steal, signal, onLost }) {
  if (!navigator.locks) return Promise.resolve(() => {}); // plain HTTP from another machine: no secure context
  return new Promise((resolve, reject) => {
    const won = new AbortController();
    signal.addEventListener("abort", () => won.abort());
    let taken = false;
    const hold = () => {
      if (taken || signal.aborted) return undefined; // another slot was free, too
      taken = true;
      won.abort(); // the others need not wait any longer
      return new Promise((release) => resolve(release));
    };
    const lost = (error) => {
      if (error.name !== "AbortError") reject(error);
      else if (signal.aborted && !taken) reject(error);
    };
    const name = (slot) => `aiwrapper event stream ${slot}`;
    if (steal) {
      const held = () => navigator.locks.query().then(({ held }) => new Set(held.map((lock) => lock.name)));
      held().then((names) => {
        if (signal.aborted) return reject(signal.reason);
        const slots = Array.from({ length: SLOTS }, (_, slot) => slot);
        const slot = slots.find((each) => !names.has(name(each))) ?? Math.floor(Math.random() * SLOTS);
        navigator.locks.request(name(slot), { steal: true }, hold).catch(() => taken && onLost());
      }, reject);
      return;
    }
    for (let slot = 0; slot < SLOTS; slot += 1) {
      let mine = false;
      const holdThis = () => {
        const held = hold();
        mine = held !== undefined;
        return held;
      };
      navigator.locks.request(name(slot), { signal: won.signal }, holdThis).catch((error) => (mine ? onLost() : lost(error)));
    }
  });
}
