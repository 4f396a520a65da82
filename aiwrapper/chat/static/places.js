// What the pages of one browser share out among themselves, through the Web Locks API: whatever becomes of a page, the
// browser gives back what it had. Over plain HTTP from another machine there is no such thing: there, each page has all.

const SLOTS = 4;

/**
 * Be the only page that has `name`. Resolves, once no other has it, to a function that gives it back; rejects if `signal`
 * is aborted before.
 */
export function takeAlone(name, signal) {
  if (!navigator.locks) return Promise.resolve(() => {});
  return new Promise((resolve, reject) => {
    navigator.locks.request(name, { signal }, () => new Promise((release) => resolve(release))).catch(reject);
  });
}

/**
 * Have one of the connections that may be kept. Resolves to a function that gives it back; `onLost` is called if another
 * page takes it, which one that asks with `steal` does.
 */
export function takeSlot({ steal, signal, onLost }) {
  if (!navigator.locks) return Promise.resolve(() => {});
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
