// The requests of the page. All URLs are relative, so that the application can be mounted anywhere.

/** The code of a refusal: there is no such thing, or not for us. */
export const UNKNOWN = "not_found";

/** The server refused; `code` is the protocol's word, `message` is for people. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The server could not be reached. */
export class Unreachable extends Error {
  constructor() {
    super("The server can't be reached.");
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Unreachable();
  }
  let body = null;
  try {
    body = await response.json();
  } catch {
    if (response.ok) throw new Unreachable(); // cut in the middle
  }
  if (!response.ok) {
    throw new Refused(response.status, body?.error ?? "", body?.message ?? `The server answered ${response.status}.`);
  }
  return body;
}

const chat = (id) => `api/chats/${encodeURIComponent(id)}`;

/** Read something: `options`, `chats`. */
export const read = (what) => ask(`api/${what}`);

/** The snapshot of a chat; null if there is no such chat, or none any more. */
export const snapshot = (id) =>
  ask(chat(id)).catch((error) => {
    if (error.code === UNKNOWN) return null;
    throw error;
  });

/** Where the events of a chat are. */
export const eventsUrl = (id, position) =>
  `${chat(id)}/events${position === null ? "" : `?after=${encodeURIComponent(position)}`}`;

const post = (path, body) =>
  ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

/** Make a chat with these settings. */
export const create = (settings) => post("api/chats", settings);

/** Change a chat: `send`, `edit`, `retry`, `continue`, `stop`, `switch`, `title`, `configure`, `delete`, `attachments`. */
export const change = (id, what, body = {}) => post(`${chat(id)}/${what}`, body);

/** A new run's id. `crypto.randomUUID` is missing where the page comes over plain HTTP from another machine. */
export function newRunId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40; // version 4 (RFC 9562, section 5.4)
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
