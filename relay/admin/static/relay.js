// relay for browsers (and node): the JSON form of the relay protocol over WebSocket; no dependencies. Its parts are
// relay-form.js (texts and messages) and relay-positions.js (recovery); they are imported from beside it.
//
//   import { connect } from "/relay.js";
//   const relay = await connect({ user: "ann" });            // or connect("wss://host/ws", {token})
//   await relay.subscribe("room.*", (event) => console.log(event.name, event.value, event.from.user));
//   await relay.publish("room.1", { text: "hello" });
//   await relay.register("add", ([a, b]) => a + b);
//   console.log(await relay.pull("add", [1, 2]));
//
// A lost connection is made again by itself and the session resumed: nothing is lost, nothing done twice. Where that
// cannot be had ("reset"), subscriptions and registrations are made anew, what was missed in channels with history is
// fetched ("recovered" tells whether it could be), and what was under way fails with outcome "unknown".
// Types are in relay.d.ts; the protocol is docs/protocol.md.

import {
  ANSWERS, KINDS, RelayError, SESSION_KIND_MIN, bodyOf, decodeMessage, encodeMessage, errorOf, incoming, isObject, matches,
  valueOf,
} from "./relay-form.js";
import { Positions } from "./relay-positions.js";

export { RelayError, decodeMessage, encodeMessage, matches };

// --- the client ------------------------------------------------------------------------------------------------------

const DEFAULTS = {
  connectTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  backoffMinMs: 200,
  backoffMaxMs: 15_000,
  heartbeatMs: 0,
  pendingMax: 10_000,
  keptMax: 10_000,
  positionsMax: 10_000,
  positionCheckMs: 60_000,
  heldMax: 10_000,
};

/** The one subscription that serves several wishes: presence if one wants it, the latest role and info, tags where all
 * agree, the highest rate. */
function merged(wishes) {
  const out = { presence: wishes.some(({ presence }) => presence) };
  for (const { role, info } of wishes) {
    if (role) out.role = role;
    if (info !== undefined) out.info = info;
  }
  const [{ tags }] = wishes;
  if (tags && wishes.every((each) => JSON.stringify(each.tags) === JSON.stringify(tags))) out.tags = tags;
  if (wishes.every(({ maxRate }) => maxRate)) {
    out.max_rate = Math.max(...wishes.map(({ maxRate }) => maxRate));
    out.latest = wishes.every(({ latest }) => latest);
  }
  return out;
}

const hasTags = (message, tags) => Object.entries(tags).every(([key, value]) => message.tags?.[key] === value);

/** One session. Events: `open` (welcome), `resumed`, `reset` (a new session took the old one's place), `away` (the
 * connection is lost, or was refused), `recovered` ({channel, recovered}: after `reset`, or when events were missing),
 * `push` (a push; detail as in subscribe), `closed` (for good; detail: goodbye). */
export class Client extends EventTarget {
  constructor(url, options = {}) {
    super();
    this.urls = Array.isArray(url) ? url : [url];
    this.options = { ...DEFAULTS, ...options };
    this.state = "new"; // connecting, open, away, closed
    this.welcome = null;
    this.onframe = null; // (direction, text) => void: every frame, for the curious
    this.socket = null;
    this.attempts = 0;
    this.seq = 0;
    this.received = 0; // session frames from the server
    this.reported = 0; // session frames of ours that the server has
    this.kept = []; // session frames of ours that it may not have: {message, text, sent}
    this.requests = new Map(); // seq -> {resolve, reject, onProgress, timer, kind}
    this.subscriptions = new Map(); // pattern -> {callbacks, options}
    this.procedures = new Map(); // name -> {handler, options}
    this.pushes = new Map(); // route -> handler
    this.deliveries = null; // (message) => void: messages of queues, which relay-queues.js takes
    this.serving = new Map(); // seq of the server -> AbortController
    this.unreportedBytes = 0;
    this.positions = new Positions(this);
  }

  /** Connects; resolves with the welcome, or rejects when the server refuses for good or `connectTimeoutMs` is over. */
  connect() {
    if (this.state !== "new") return Promise.reject(new RelayError("already connected", 36, false, "not_done"));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this._end({ reason: 17, name: "unavailable", text: "no connection in time" });
      }, this.options.connectTimeoutMs);
      const settle = (action) => (event) => {
        clearTimeout(timer);
        action(event.detail);
      };
      this.addEventListener("open", settle(resolve), { once: true });
      this.addEventListener("closed", settle((bye) => reject(this._farewell(bye))), { once: true });
      this._dial();
    });
  }

  get user() {
    return this.welcome?.user ?? "";
  }

  get session() {
    return this.welcome?.session ?? "";
  }

  /** To all members of a channel; resolves with `{reached, offset?, epoch?}`. With an `idempotency_key` it is asked again
   * when the session was lost before the answer. */
  async publish(channel, value, { noEcho = false, retained = false, ...fields } = {}) {
    const flags = [...(noEcho ? ["no_echo"] : []), ...(retained ? ["retained"] : [])];
    const reply = await this._request({ kind: "publish", name: channel, flags, ...fields, ...bodyOf(value) });
    return { reached: reply.reached ?? 0, offset: reply.offset, epoch: reply.epoch };
  }

  /** Calls `callback(event)` for each publication; with `presence` `onJoined(member, channel)` and `onLeft`, and for
   * patterns `onOccupied(channel)` and `onVacated`: these also tell of a user, as `$user.NAME`. Where the channel keeps
   * history, `since` ({offset, epoch}), `last` or `sinceTime` say what comes first, and `retained` the last value. */
  async subscribe(pattern, callback, options = {}) {
    const { since, last, sinceTime, retained, onJoined, onLeft, onOccupied, onVacated, ...wishes } = options;
    let entry = this.subscriptions.get(pattern);
    const recovers = Boolean(since || last || sinceTime || retained);
    if (entry && recovers) {
      throw new RelayError(`${pattern} is subscribed to already: history() reads its history`, 36, false, "not_done");
    }
    const fresh = !entry;
    if (fresh) this.subscriptions.set(pattern, (entry = { callbacks: new Set(), options: {}, session: 0 }));
    const own = { callback, onJoined, onLeft, onOccupied, onVacated, wishes };
    entry.callbacks.add(own);
    entry.options = { ...merged([...entry.callbacks].map((each) => each.wishes)), since, last, retained };
    if (sinceTime) entry.options.since_time = sinceTime;
    try {
      const body = await this._subscribe(pattern, entry);
      return {
        members: body.presence ?? [],
        user: pattern.startsWith("$user.") ? body : undefined,
        recovered: body.recovered,
        since: body.offset === undefined ? undefined : { offset: body.offset, epoch: body.epoch },
        unsubscribe: async () => {
          entry.callbacks.delete(own);
          if (entry.callbacks.size === 0 && this.subscriptions.get(pattern) === entry) {
            this.subscriptions.delete(pattern);
            this.positions.released(pattern);
            await this._request({ kind: "unsubscribe", name: pattern });
          }
        },
      };
    } catch (error) {
      entry.callbacks.delete(own);
      if (fresh) this.subscriptions.delete(pattern);
      throw error;
    }
  }

  /** Publications of a channel: `{events, epoch, first, last, next}`; `next` is where to go on, 0 at the end. */
  async history(channel, { after = 0, before = 0, sinceTime = 0, limit = 100, backwards = false, epoch, tags } = {}) {
    const events = [];
    for (;;) {
      const body = { after, before, since_time: sinceTime, limit: limit - events.length, backwards, epoch, tags };
      const { messages, end } = await this._page(channel, body);
      events.push(...messages.map(incoming));
      if (!end.next || events.length >= limit) {
        return { events, epoch: end.epoch ?? "", first: end.first ?? 0, last: end.last ?? 0, next: end.next ?? 0 };
      }
      if (backwards) before = end.next;
      else after = end.next;
    }
  }

  /** Behind which publication of a channel with history this client is: `{offset, epoch}`, for `since`. */
  position(channel) {
    return this.positions.of(channel);
  }

  /** Tells `{user, device?}`, `{session}`, `{all: true}` or `{procedure}`; resolves with `{addressed, reached}`. With
   * `level` 1 or 2 it is put into the user's inbox; then `offset` is its number there. */
  async push(target, name, value, { noEcho = false, ...fields } = {}) {
    const flags = noEcho ? ["no_echo"] : [];
    const reply = await this._request({ kind: "push", name, flags, ...target, ...fields, ...bodyOf(value) });
    return { addressed: reply.addressed ?? 0, reached: reply.reached ?? 0, offset: reply.offset };
  }

  /** Asks a procedure (or, with `user` or `session`, a client); `onProgress(value)` for each progressive reply. */
  async pull(name, value, { timeoutMs = this.options.requestTimeoutMs, onProgress, signal, ...target } = {}) {
    const message = { kind: "pull", name, deadline_ms: timeoutMs, ...target, ...bodyOf(value) };
    return valueOf(await this._request(message, { onProgress, timeoutMs, signal }));
  }

  /** Answers pulls: `handler(value, call)` returns (a promise of) the answer; `call.progress(value)` before it. */
  async register(name, handler, { policy = "single", weight = 1 } = {}) {
    this.procedures.set(name, { handler, options: { policy, weight } });
    try {
      await this._request({ kind: "register", name, body: { policy, weight } });
    } catch (error) {
      this.procedures.delete(name);
      throw error;
    }
    return {
      unregister: async () => {
        this.procedures.delete(name);
        await this._request({ kind: "unregister", name });
      },
    };
  }

  /** Calls `handler(event)` for pushes with that name; without one they are `push` events. */
  onPush(name, handler) {
    this.pushes.set(name, handler);
  }

  /** Who is in a channel: `{count, members}`; or with `{user}`: `{online, sessions, last_seen}`. */
  async presence(of, { countOnly = false } = {}) {
    const target = typeof of === "string" ? { name: of } : { user: of.user };
    if (countOnly) target.body = { count_only: true };
    return (await this._request({ kind: "presence", ...target })).body;
  }

  /** Speak for another user: `{token}`, `{user}` (with the permission), or `{}` for nobody. */
  async bind(body) {
    return (await this._request({ kind: "bind", body })).body;
  }

  /** A new token for the same user. */
  async refresh(token) {
    return (await this._request({ kind: "refresh", body: { token } })).body;
  }

  /** Says goodbye and ends the session. */
  close() {
    if (this.state === "closed") return;
    const bye = { reason: 1, name: "normal", reconnect: false };
    if (this.state === "open") this._write(encodeMessage({ kind: "goodbye", body: bye }));
    this._end(bye);
  }

  // --- connecting ----------------------------------------------------------------------------------------------------

  _dial() {
    if (this.state === "closed") return;
    this.state = "connecting";
    const url = this.redirect ?? this.urls[this.attempts % this.urls.length];
    this.redirect = null;
    this.attempts += 1;
    const socket = (this.socket = new WebSocket(url, ["relay.v1.json"]));
    const { token, password, user, device, realm, info, heartbeatMs } = this.options;
    socket.onopen = async () => {
      try {
        const body = { version: "1.0", features: ["resume"], client: "relay.js/1", user, device, realm, password, info };
        body.token = typeof token === "function" ? await token() : token;
        if (heartbeatMs) body.heartbeat_ms = heartbeatMs;
        if (this.welcome?.secret) {
          body.resume = { session: this.welcome.session, secret: this.welcome.secret, received: this.received };
        }
        if (this.socket === socket) this._write(encodeMessage({ kind: "hello", body }));
      } catch (error) {
        this._end({ reason: 11, name: "unauthorized", text: `no token: ${error.message}` });
      }
    };
    socket.onmessage = (event) => this.socket === socket && this._frame(event.data);
    socket.onclose = (event) => this.socket === socket && this._lost(event);
  }

  _lost(event) {
    this.socket = null;
    clearTimeout(this.heartbeat);
    if (this.state === "closed") return;
    this.state = "away";
    this.dispatchEvent(new CustomEvent("away", { detail: { code: event?.code, attempts: this.attempts } }));
    const { backoffMinMs, backoffMaxMs } = this.options;
    const ceiling = Math.min(backoffMaxMs, backoffMinMs * 2 ** Math.min(this.attempts, 20));
    const wait = this.retryAfterMs ?? Math.random() * ceiling;
    this.retryAfterMs = undefined;
    this.redial = setTimeout(() => this._dial(), wait);
  }

  _welcomed(body) {
    const before = this.welcome;
    clearTimeout(this.heartbeat);
    this.attempts = 0;
    this.state = "open";
    this.welcome = { ...body, secret: body.secret || before?.secret };
    this._watch();
    if (body.resumed) {
      this._learn(body.received ?? 0);
      for (const frame of this.kept) this._send(frame);
      this.dispatchEvent(new CustomEvent("resumed", { detail: body }));
    } else {
      const unsent = this.kept.filter(({ sent, message }) => !sent && this.requests.has(message.seq) && !ANSWERS.has(message.kind));
      const fresh = unsent.map(({ message }) => message);
      for (const { message } of this.requests.values()) {
        if (message.idempotency_key && message.kind === "publish" && !fresh.includes(message)) fresh.push(message);
      }
      this.received = this.reported = this.unreportedBytes = 0;
      this.kept = [];
      this.positions.fresh(body.session);
      if (before) this._reset(fresh);
      for (const message of fresh) this._transmit(message);
      this.dispatchEvent(new CustomEvent(before ? "reset" : "open", { detail: body }));
    }
  }

  /** The old session is gone: what was sent may have been done, what was set up is set up anew; `fresh` was never
   * sent and goes to the new session as it is. */
  _reset(fresh) {
    const lost = new RelayError("the session was lost", 44, true, "unknown");
    for (const { abort } of this.serving.values()) abort();
    this.serving.clear();
    const seqs = new Set(fresh.map(({ seq }) => seq));
    for (const [seq, request] of [...this.requests]) if (!seqs.has(seq)) this._settle(seq, () => request.reject(lost));
    const again = (kind, name, body) => {
      if (fresh.some((message) => message.kind === kind && message.name === name)) return;
      this._request({ kind, name, body }).catch((error) => this._complain({ kind, name }, error));
    };
    for (const [name, entry] of this.subscriptions) {
      if (fresh.some((message) => message.kind === "subscribe" && message.name === name)) continue;
      this._subscribe(name, entry).catch((error) => this._complain({ kind: "subscribe", name }, error));
    }
    for (const [name, { options }] of this.procedures) again("register", name, options);
  }

  _complain(message, error) {
    this.dispatchEvent(new CustomEvent("trouble", { detail: { message, error } }));
  }

  _farewell(bye) {
    const text = bye.text || bye.name || `closed (${bye.reason})`;
    return new RelayError(text, bye.name === "unauthorized" ? 20 : 44, Boolean(bye.reconnect), "unknown");
  }

  _end(bye) {
    this.state = "closed";
    this.positions.close();
    clearTimeout(this.heartbeat);
    clearTimeout(this.redial);
    for (const { abort } of this.serving.values()) abort();
    this.serving.clear();
    for (const [seq, request] of [...this.requests]) this._settle(seq, () => request.reject(this._farewell(bye)));
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
    this.dispatchEvent(new CustomEvent("closed", { detail: bye }));
  }

  // --- frames --------------------------------------------------------------------------------------------------------

  _write(text) {
    this.onframe?.("out", text);
    this.socket.send(text);
  }

  /** A session frame: counted, and kept until the server has it. */
  _transmit(message) {
    if (this.kept.length >= this.options.keptMax) {
      throw new RelayError("too much waits for the connection", 41, true, "not_done");
    }
    const frame = { message, text: encodeMessage(message), sent: false };
    this.kept.push(frame);
    if (this.state === "open") this._send(frame);
  }

  _send(frame) {
    frame.sent = true;
    this._write(frame.text);
  }

  _learn(count) {
    if (count > this.reported) {
      this.kept.splice(0, count - this.reported);
      this.reported = count;
    }
  }

  _watch() {
    clearTimeout(this.heartbeat);
    const period = this.welcome?.heartbeat_ms || 25_000;
    const limit = Date.now() + period * 2.5;
    const tick = () => {
      if (this.state !== "open") return;
      if (Date.now() >= limit) {
        this.socket?.close(4008, "nothing heard");
        this._lost({ code: 4008 });
        return;
      }
      this._write(encodeMessage({ kind: "ping", received: this.received }));
      this.heartbeat = setTimeout(tick, period);
    };
    this.heartbeat = setTimeout(tick, period);
  }

  _frame(text) {
    this.onframe?.("in", text);
    let message;
    try {
      message = decodeMessage(text);
    } catch (error) {
      this.socket?.close(4007, error.message.slice(0, 100));
      this._lost({ code: 4007 });
      return;
    }
    if (this.state === "open") this._watch();
    const number = KINDS[message.kind] ?? message.kind;
    if (number >= SESSION_KIND_MIN) {
      this.received += 1;
      this.unreportedBytes += text.length;
      if (this.unreportedBytes >= (this.welcome?.resume_ack_bytes || 65_536)) this._report("pong");
    }
    if (message.refused) {
      if (message.seq && !["reply", "error"].includes(message.kind)) {
        this._answer(message.seq, new RelayError(message.refused, 12, false, "not_done"));
      }
      return;
    }
    this[`_on_${message.kind}`]?.(message);
    if (typeof message.kind === "number" && message.seq) {
      this._answer(message.seq, new RelayError(`kind ${message.kind} is unknown`, 12, false, "not_done"));
    }
  }

  _report(kind, seq = 0) {
    this.unreportedBytes = 0;
    this._write(encodeMessage({ kind, seq, received: this.received }));
  }

  _on_welcome(message) {
    if (this.state === "connecting") this._welcomed(message.body ?? {});
  }

  _on_ping(message) {
    this._learn(message.received ?? 0);
    this._report("pong", message.seq);
  }

  _on_pong(message) {
    this._learn(message.received ?? 0);
    if (message.skipped) {
      this.received += message.skipped;
      this.dispatchEvent(new CustomEvent("gap", { detail: { frames: message.skipped } }));
      this.positions.leftOut();
    }
  }

  _on_goodbye(message) {
    const bye = message.body ?? {};
    this.dispatchEvent(new CustomEvent("goodbye", { detail: bye }));
    if (!bye.reconnect) {
      this._end(bye);
      return;
    }
    this.redirect = bye.reconnect_to || null;
    if (bye.reconnect_after_ms) this.retryAfterMs = Math.random() * bye.reconnect_after_ms;
    const socket = this.socket;
    this._lost({ code: 4000 + (bye.reason ?? 0) });
    socket?.close(1000);
  }

  _on_reply(message) {
    const request = this.requests.get(message.seq);
    if (!request) return;
    if (message.flags?.includes("more")) {
      if (request.onMore) request.onMore(message);
      else request.onProgress?.(valueOf(message));
    } else {
      request.onReply?.(message);
      this._settle(message.seq, () => request.resolve(message));
    }
  }

  _on_error(message) {
    const request = this.requests.get(message.seq);
    if (request) this._settle(message.seq, () => request.reject(errorOf(message)));
    else if (!message.seq) this._complain(message, errorOf(message));
  }

  _on_event(message) {
    this.positions.event(message);
  }

  _deliver(message) {
    const event = incoming(message);
    for (const [pattern, entry] of this.subscriptions) {
      if (!matches(pattern, event.name)) continue;
      for (const { callback, wishes } of entry.callbacks) {
        if (!wishes.tags || hasTags(message, wishes.tags)) callback?.(event);
      }
    }
  }

  /** Whether a subscription gets events of the channel; `whole`: all of them. */
  _listens(name, whole = false) {
    for (const [pattern, { options }] of this.subscriptions) {
      if (matches(pattern, name) && !(whole && (options.tags || options.max_rate))) return true;
    }
    return false;
  }

  _on_joined(message) {
    this._present("onJoined", message);
  }

  _on_left(message) {
    this._present("onLeft", message);
  }

  _on_occupied(message) {
    this._occupy("onOccupied", message);
  }

  _on_vacated(message) {
    this._occupy("onVacated", message);
  }

  _occupy(which, message) {
    for (const [pattern, entry] of this.subscriptions) {
      if (matches(pattern, message.name)) for (const own of entry.callbacks) own[which]?.(message.name);
    }
  }

  _present(which, message) {
    for (const [pattern, entry] of this.subscriptions) {
      if (matches(pattern, message.name)) for (const own of entry.callbacks) own[which]?.(message.body, message.name);
    }
  }

  async _on_push(message) {
    if (message.queue !== undefined && this.deliveries) {
      this.deliveries(message);
      return;
    }
    const event = incoming(message);
    const handler = this.pushes.get(event.name);
    let failure;
    try {
      if (handler) await handler(event);
      else this.dispatchEvent(new CustomEvent("push", { detail: event }));
    } catch (error) {
      failure = error;
    }
    if (message.seq) this._answer(message.seq, failure, undefined);
    else if (failure) this._complain(message, failure);
  }

  async _on_pull(message) {
    const { seq, name } = message;
    let procedure = this.procedures.get(name);
    for (const [pattern, each] of this.procedures) if (!procedure && matches(pattern, name)) procedure = each;
    if (!procedure) {
      this._answer(seq, new RelayError(`nobody provides ${name}`, 31, true, "not_done"));
      return;
    }
    const controller = new AbortController();
    this.serving.set(seq, { abort: () => controller.abort() });
    const call = {
      ...incoming(message),
      signal: controller.signal,
      progress: (value) => this.serving.has(seq) && this._transmit({ kind: "reply", seq, flags: ["more"], ...bodyOf(value) }),
    };
    try {
      const value = await procedure.handler(call.value, call);
      if (this.serving.delete(seq)) this._answer(seq, undefined, value);
    } catch (error) {
      if (this.serving.delete(seq)) this._answer(seq, error);
    }
  }

  _on_cancel(message) {
    const serving = this.serving.get(message.seq);
    this.serving.delete(message.seq);
    serving?.abort();
  }

  async _on_refresh(message) {
    const { token } = this.options;
    this.dispatchEvent(new CustomEvent("refresh", { detail: message.body }));
    if (typeof token !== "function") return;
    try {
      await this.refresh(await token());
    } catch (error) {
      this._complain(message, error);
    }
  }

  // --- requests ------------------------------------------------------------------------------------------------------

  _answer(seq, error, value) {
    if (this.state === "closed") return;
    if (!error) {
      this._transmit({ kind: "reply", seq, ...bodyOf(value) });
      return;
    }
    const known = error instanceof RelayError;
    this._transmit({
      kind: "error", seq, error: known ? error.code : 1000, temporary: known && error.temporary ? true : undefined,
      outcome: known ? error.outcome : "unknown",
      ...(known && error.data !== undefined ? { body: { message: error.message, data: error.data } }
                                            : { text: String(error?.message ?? error) }),
    });
  }

  /** Subscribes in this session; the body of the reply. */
  async _subscribe(pattern, entry) {
    const session = this.positions.session;
    const body = this.positions.options(pattern, entry.options, entry.session !== session);
    const onReply = (reply) => {
      entry.session = session;
      this.positions.confirmed(pattern, body, reply.body);
    };
    return (await this._request({ kind: "subscribe", name: pattern, body }, { onReply })).body ?? {};
  }

  /** One page of history: its publications as messages, and the body of the last reply. */
  async _page(name, body) {
    const messages = [];
    const onMore = (message) => messages.push({ ...message, flags: message.flags.filter((flag) => flag !== "more") });
    const reply = await this._request({ kind: "history", name, body }, { onMore });
    return { messages, end: reply.body ?? {} };
  }

  _request(message, { onProgress, onMore, onReply, timeoutMs = this.options.requestTimeoutMs, signal } = {}) {
    return new Promise((resolve, reject) => {
      if (this.state === "closed") throw new RelayError("the session is closed", 44, true, "not_done");
      if (this.requests.size >= this.options.pendingMax) {
        throw new RelayError("too many requests under way", 41, true, "not_done");
      }
      do this.seq = (this.seq % 0xffffffff) + 1; while (this.requests.has(this.seq));
      const seq = this.seq;
      const asked = { ...message, seq };
      this._transmit(asked);
      const cancel = (error) => {
        if (!this.requests.has(seq)) return;
        if (message.kind === "pull") this._transmit({ kind: "cancel", seq });
        this._settle(seq, () => reject(error));
      };
      // The server keeps the deadline of a pull; this one is for a connection that does not come back.
      const timer = setTimeout(() => cancel(new RelayError("no answer in time", 33, true, "unknown")), timeoutMs + 1000);
      const onAbort = () => cancel(new RelayError("cancelled", 34, false, "unknown"));
      signal?.addEventListener("abort", onAbort, { once: true });
      this.requests.set(seq, { message: asked, resolve, reject, onProgress, onMore, onReply, timer, forget: () => signal?.removeEventListener("abort", onAbort) });
    });
  }

  _settle(seq, action) {
    const request = this.requests.get(seq);
    this.requests.delete(seq);
    clearTimeout(request.timer);
    request.forget();
    action();
  }
}

/** Connects and resolves with a `Client`. `url` (or a list): default is the place that this module came from. */
export async function connect(url, options) {
  if (isObject(url)) [url, options] = [undefined, url];
  const client = new Client(url ?? new URL("/ws", import.meta.url).href.replace(/^http/, "ws"), options);
  await client.connect();
  return client;
}
