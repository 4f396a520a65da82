// A page that follows a chat, together with the other pages of this browser that follow it, too.
//
// A browser opens six connections to a server over HTTP/1.1, for all tabs together. A stream keeps one, so six of them
// and the browser never sends the Stop. Therefore:
//
// 1. Pages that follow the same chat share one stream. One of them leads: it has the stream, and tells the others what
//    it hears. When it is closed, hidden or goes elsewhere, another one leads, and resumes the stream where it is itself.
// 2. For streams of different chats there are four slots, and the page that is used takes one from another, which waits
//    until one is free.
// 3. An event says what has changed since a position. A page that is not so far yet has missed something, and asks for
//    it; one that is further knows it already. So it does not matter who told what, and how often.

import { eventsUrl } from "./api.js";
import { takeAlone, takeSlot } from "./places.js";

const AGAIN_AFTER_MS = 2000; // as long as browsers wait by themselves before they connect again

export class Following {
  #chatId;
  #position;
  #on;
  #channel; // to the others
  #closed = new AbortController();
  #lead = null; // gives it back
  #slot = null; // gives it back
  #asking = null; // an AbortController while we wait for a slot
  #source = null;
  #again = null; // a timer
  #early = null; // what we are told while we ask for what we have missed

  /**
   * `position()`: of what the page knows of the chat; null for nothing.
   * `on`: `event(kind, event)` takes what is new; `missed()` asks for what was not told, and resolves when it is here;
   * `connection(up)` is told when the stream is lost and when it is back.
   */
  constructor(chatId, position, on) {
    this.#chatId = chatId;
    this.#position = position;
    this.#on = on;
    const name = `aiwrapper stream of ${chatId}`;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    takeAlone(name, this.#closed.signal).then(
      (release) => {
        if (this.#isClosed) return release();
        this.#lead = release;
        this.#tellPosition();
        this.#ask({ steal: document.hasFocus() });
      },
      () => {}, // we are closed
    );
    this.#channel.postMessage({ what: "join" });
  }

  /** Somebody uses this page. */
  use() {
    if (!this.#lead) this.#channel.postMessage({ what: "use" });
    else if (this.#asking) this.#ask({ steal: true });
  }

  /** The network is back: do not wait until the browser tries again. */
  reopen() {
    if (!this.#source) return;
    this.#closeSource();
    this.#open();
  }

  close() {
    this.#closed.abort();
    this.#channel.close();
    this.#closeSource();
    this.#asking?.abort();
    this.#slot?.();
    this.#lead?.();
  }

  get #isClosed() {
    return this.#closed.signal.aborted;
  }

  // As one who leads

  #ask({ steal }) {
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    takeSlot({ steal, signal: asking.signal, onLost: () => this.#lose() }).then(
      (release) => {
        if (this.#isClosed || this.#asking !== asking) return release();
        this.#asking = null;
        this.#slot = release;
        this.#open();
      },
      () => {}, // we asked no longer
    );
  }

  #lose() {
    if (this.#isClosed) return;
    this.#slot = null;
    this.#closeSource();
    this.#ask({ steal: false });
  }

  #open() {
    const source = (this.#source = new EventSource(eventsUrl(this.#chatId, this.#position())));
    for (const kind of ["snapshot", "change"]) {
      source.addEventListener(kind, ({ data }) => {
        const event = JSON.parse(data);
        this.#tell(kind, event); // first of all: the page may be about to close this, because it has heard the end
        this.#take(kind, event);
      });
    }
    source.onopen = () => this.#connected(true);
    source.onerror = () => {
      this.#connected(false);
      // The browser connects again by itself after a lost connection, but not after a refusal.
      if (source.readyState === EventSource.CLOSED && source === this.#source) {
        this.#again = setTimeout(() => this.reopen(), AGAIN_AFTER_MS);
      }
    };
  }

  #tell(kind, event) {
    this.#channel.postMessage({ what: "event", kind, event, since: this.#position() });
  }

  /** Nothing is new, but whoever has begun to listen since may have missed something. */
  #tellPosition() {
    if (this.#position() !== null) this.#tell("change", { position: this.#position() });
  }

  #closeSource() {
    clearTimeout(this.#again);
    this.#source?.close();
    this.#source = null;
  }

  #connected(up) {
    this.#channel.postMessage({ what: "connection", up });
    this.#on.connection(up);
  }

  // As one of the others

  #hear(told) {
    if (this.#lead) {
      if (told.what === "join") this.#tellPosition();
      else if (told.what === "use" && this.#asking) this.#ask({ steal: true });
    } else if (told.what === "connection") this.#on.connection(told.up);
    else if (told.what === "event") this.#hearEvent(told);
  }

  async #hearEvent(told) {
    if (this.#early) return this.#early.push(told);
    if (this.#joinsOn(told)) return this.#take(told.kind, told.event);
    this.#early = [told];
    try {
      await this.#on.missed();
    } finally {
      const early = this.#early;
      this.#early = null;
      for (const each of early) if (this.#joinsOn(each)) this.#take(each.kind, each.event);
    }
  }

  #joinsOn({ kind, since }) {
    const position = this.#position();
    return kind === "snapshot" || (position !== null && since <= position);
  }

  #take(kind, event) {
    const position = this.#position();
    if (!this.#isClosed && (position === null || event.position >= position)) this.#on.event(kind, event);
  }
}
