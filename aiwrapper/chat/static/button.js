// The Send and Stop button, as a pure state machine.
//
//     idle -> starting -> streaming <-> running_tool -> idle        the run ended by itself
//               |             |              |
//               +-------- stopping ----------+ -> stopped            somebody pressed Stop
//
// 1. `stopping` at the click, whatever the run does; `idle` and `stopped` only when the log says that the run has ended.
// 2. A stop is for one run, by its id. The page makes the id, so a stop can be wanted before the server has heard of the
//    run: it is sent at once, sent again when the server has taken the run, and again while nobody has confirmed it.
// 3. What is known of a run never makes the button forget a stop of that run; another run's stop is never its own.
//
// `next(state, event)` returns `{ state, stop }`: the new state, and the id of a run to be stopped now, or null.

/** How long a stop may stay without the log saying that the run has ended, before it is sent again. */
export const CONFIRM_WITHIN_MS = 2000;

export const IDLE = Object.freeze({ phase: "idle", runId: null, taken: false });

const LIVE = new Set(["starting", "streaming", "running_tool", "stopping"]);

/** Whether a run lives, as far as the page knows: then the button stops, and the stream is open. */
export function isLive(state) {
  return LIVE.has(state.phase);
}

/**
 * The next state.
 *
 * Events, by `type`:
 * - `send` {runId}: the user asks for an answer; the request is about to leave.
 * - `taken` {runId}: the server has answered that request.
 * - `refused` {runId}: the server has refused it, so this run will never be.
 * - `stop`: the user presses Stop.
 * - `unconfirmed`: a stop was sent and for a while nothing came of it.
 * - `log` {run, ended}: what the log says now: the run that lives ({id, state} or null), and the status by id of runs
 *   that have ended.
 */
export function next(state, event) {
  switch (event.type) {
    case "send":
      return isLive(state) ? same(state) : to({ phase: "starting", runId: event.runId, taken: false });
    case "taken":
      if (!isLive(state) || event.runId !== state.runId) return same(state);
      return { state: frozen({ ...state, taken: true }), stop: state.phase === "stopping" ? state.runId : null };
    case "refused":
      return event.runId === state.runId && !state.taken ? to(IDLE) : same(state);
    case "stop":
      if (!isLive(state) || state.phase === "stopping") return same(state);
      return { state: frozen({ ...state, phase: "stopping" }), stop: state.runId };
    case "unconfirmed":
      return { state, stop: state.phase === "stopping" ? state.runId : null };
    case "log":
      return to(fromLog(state, event));
    default:
      throw new TypeError(`not an event of the button: ${event.type}`);
  }
}

function fromLog(state, { run, ended }) {
  if (run !== null && !(run.id in ended)) {
    const stopping = run.state === "stopping" || (state.phase === "stopping" && state.runId === run.id);
    return { phase: stopping ? "stopping" : phaseOf(run.state), runId: run.id, taken: true };
  }
  if (!isLive(state)) return state;
  if (state.runId in ended) {
    return { phase: ended[state.runId] === "stopped" ? "stopped" : "idle", runId: null, taken: false };
  }
  // Nothing lives, but ours has not ended either: its request is still on its way, or its news are.
  return state;
}

function phaseOf(runState) {
  return runState === "retrying" ? "starting" : runState;
}

function to(state) {
  return { state: frozen(state), stop: null };
}

function same(state) {
  return { state, stop: null };
}

function frozen(state) {
  return Object.freeze(state);
}
