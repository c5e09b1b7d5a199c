// relay for browsers (and node): the JSON form of the relay protocol over WebSocket, one module, no dependencies.
//
//   import { connect } from "/relay.js";
//   const relay = await connect({ user: "ann" });            // or connect("wss://host/ws", {token})
//   await relay.subscribe("room.*", (event) => console.log(event.name, event.value, event.from.user));
//   await relay.publish("room.1", { text: "hello" });
//   await relay.register("add", ([a, b]) => a + b);
//   console.log(await relay.pull("add", [1, 2]));
//
// A lost connection is made again by itself and the session resumed: nothing is lost, nothing done twice. Where that
// cannot be had ("reset"), subscriptions and registrations are made anew, and what was under way fails with outcome
// "unknown". Types are in relay.d.ts; the protocol is docs/protocol.md.

const KINDS = {
  hello: 1, welcome: 2, ping: 3, pong: 4, goodbye: 5, push: 16, pull: 17, reply: 18, error: 19, cancel: 20,
  publish: 32, event: 33, subscribe: 34, unsubscribe: 35, history: 36, presence: 37, joined: 38, left: 39,
  occupied: 40, vacated: 41,
  register: 48, unregister: 49, bind: 56, refresh: 57, ack: 64, nack: 65, credit: 66, consume: 67,
  unconsume: 68, queue: 69,
};
const KIND_NAMES = Object.fromEntries(Object.entries(KINDS).map(([name, number]) => [number, name]));
const SESSION_KIND_MIN = 16;
const ANSWERS = new Set(["reply", "error", "cancel"]);

const FLAGS = { more: 1, unordered: 2, unreliable: 4, latest: 8, independent: 16, no_echo: 32, retained: 64 };
const CODECS = ["raw", "text", "json", "msgpack", "protobuf", "form", "cbor", "wamp"];
const FILTERS = { gzip: 1, zstd: 2, crc32c: 3, md5: 4 };

const FIELDS = {
  message_id: "bytes", from_user: "text", from_session: "text", from_device: "text", from_realm: "text",
  user: "text", device: "text", session: "text", procedure: "text", provider: "text", node: "text", all: "present",
  role: "text", channel: "text", subscription: "uint", offset: "uint", epoch: "text", accepted_at: "uint",
  ttl_ms: "uint", deadline_ms: "uint", idempotency_key: "text", ordering_key: "text", conflation_key: "text",
  priority: "uint", deliver_at: "uint", credits: "uint", lease_ms: "uint", deliveries: "uint", level: "uint",
  origin_node: "text", hops: "uint", traceparent: "text", tracestate: "text", metadata: "map", filters: "filters",
  received: "uint", skipped: "uint", error: "uint", temporary: "present", outcome: "outcome", addressed: "uint",
  reached: "uint", tags: "map", queue: "text",
};

/** An error of the protocol: `code`, `temporary` and `outcome` ("not_done" or "unknown") are for programs. */
export class RelayError extends Error {
  constructor(message, code = 1, temporary = false, outcome = "unknown", data = undefined) {
    super(message);
    this.name = "RelayError";
    this.code = code;
    this.temporary = temporary;
    this.outcome = outcome;
    this.data = data;
  }
}

// --- the JSON form ---------------------------------------------------------------------------------------------------

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isUint = (value) => typeof value === "number" && Number.isInteger(value) && value >= 0;
const isBase64 = (value) =>
  typeof value === "string" && value.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(value);
const TYPES = {
  uint: isUint,
  text: (value) => typeof value === "string",
  bytes: isBase64,
  present: (value) => value === true,
  outcome: (value) => value === "not_done" || value === "unknown",
  map: (value) => isObject(value) && Object.entries(value).every(([key, each]) => key !== "" && typeof each === "string"),
  filters: (value) => Array.isArray(value) && value.length <= 8,
};

function broken(text) {
  return new RelayError(text, 10, false, "not_done");
}

function checkFlags(flags, message) {
  if (!Array.isArray(flags)) throw broken("flags: a list is expected");
  const names = new Set();
  for (const flag of flags) {
    if (typeof flag === "string") {
      if (!(flag in FLAGS)) message.refused = `flag ${flag} is unknown`;
      names.add(flag);
    } else if (!isUint(flag) || flag === 0 || flag > 0x8000 || (flag & (flag - 1)) !== 0) {
      throw broken("flags: names, or the value of one bit, are expected");
    } else {
      if (flag >= 0x100) message.refused = `flag ${flag} is unknown`;
      names.add(Object.keys(FLAGS).find((each) => FLAGS[each] === flag) ?? flag);
    }
  }
  if (names.size) message.flags = [...names];
}

function checkFilters(filters, message) {
  for (const each of filters) {
    if (typeof each === "string") {
      if (!(each in FILTERS)) message.refused = `filter ${each} is unknown`;
    } else if (!isUint(each) || each > 255) {
      throw broken("filters: names or numbers are expected");
    }
  }
}

const BODIES = { body: "json", text: "text", data: null };

function checkBody(given, message) {
  const keys = Object.keys(BODIES).filter((key) => key in given);
  if (keys.length > 1) throw broken("more than one body");
  if ("text" in given && typeof given.text !== "string") throw broken("text: a string is expected");
  if ("data" in given && !isBase64(given.data)) throw broken("data: base64 is expected");
  for (const key of keys) message[key] = given[key];
  if (!("codec" in given)) return;
  const { codec } = given;
  if (typeof codec === "string" ? false : !isUint(codec) || codec > 255) throw broken("codec: a name or a number is expected");
  if (typeof codec === "string" && !CODECS.includes(codec)) message.refused = `codec ${codec} is unknown`;
  const name = CODECS[codec] ?? codec;
  if (keys.length && BODIES[keys[0]] && name !== BODIES[keys[0]]) throw broken(`codec ${name} beside ${keys[0]}`);
  message.codec = codec;
}

/** The message in a line or text message, as an object with the keys of the JSON form; `refused` says why it must be
 * answered with `unsupported`. Throws RelayError for what is no message. */
export function decodeMessage(text) {
  let given;
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw broken(`not JSON: ${error.message}`);
  }
  if (!isObject(given)) throw broken("a JSON object is expected");
  const { kind, seq = 0, name = "", flags = [] } = given;
  const message = { kind: KIND_NAMES[kind] ?? kind, seq, name };
  if (typeof kind === "string" ? kind === "" : !isUint(kind) || kind > 255) throw broken("kind: a name or a number is expected");
  if (typeof kind === "string" && !(kind in KINDS)) message.refused = `kind ${kind} is unknown`;
  if (!isUint(seq) || seq > 0xffffffff) throw broken("seq: 0 to 4294967295 is expected");
  if (typeof name !== "string" || new TextEncoder().encode(name).length > 255) throw broken("name: at most 255 bytes");
  for (const [written, value] of Object.entries(given)) {
    const critical = written.startsWith("!");
    const key = critical ? written.slice(1) : written;
    if (key in FIELDS) {
      if (critical && key in given) throw broken(`${key}: given twice`);
      if (!TYPES[FIELDS[key]](value)) throw broken(`${key}: ${FIELDS[key]} is expected`);
      message[key] = value;
    } else if (critical) {
      message.refused = `field ${key} is unknown`;
    }
  }
  checkFlags(flags, message);
  if (message.filters) checkFilters(message.filters, message);
  checkBody(given, message);
  return message;
}

/** The JSON text of a message; keys that are no part of the protocol are left out. */
export function encodeMessage(message) {
  const out = { kind: message.kind };
  if (message.seq) out.seq = message.seq;
  if (message.name) out.name = message.name;
  if (message.flags?.length) out.flags = message.flags;
  for (const key in message) if (key in FIELDS && message[key] !== undefined) out[key] = message[key];
  for (const key of ["body", "text", "data", "codec"]) if (message[key] !== undefined) out[key] = message[key];
  const text = JSON.stringify(out);
  // Half a surrogate pair (somebody typed, or cut, half an emoji) is no text: it becomes U+FFFD.
  return /\\ud[89a-f]/i.test(text) ? JSON.stringify(out, (_, value) => value?.toWellFormed?.() ?? value) : text;
}

function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

/** The body keys for a value: bytes are raw, a string is text, anything else JSON. */
function bodyOf(value) {
  if (value === undefined) return {};
  if (typeof value === "string") return { text: value };
  if (value instanceof Uint8Array) return { data: toBase64(value) };
  if (value instanceof ArrayBuffer) return { data: toBase64(new Uint8Array(value)) };
  return { body: value };
}

/** The value of a message's body: JSON as a value, text as a string, everything else as bytes. */
function valueOf(message) {
  if ("body" in message) return message.body;
  if ("text" in message) return message.text;
  if ("data" in message) return Uint8Array.from(atob(message.data), (letter) => letter.charCodeAt(0));
  return undefined;
}

/** Whether `name` matches `pattern`: `*` is one segment, a last `**` is one or more. */
export function matches(pattern, name) {
  const wanted = pattern.split(".");
  const given = name.split(".");
  for (let at = 0; at < wanted.length; at += 1) {
    if (wanted[at] === "**" && at === wanted.length - 1) return given.length > at;
    if (at >= given.length || (wanted[at] !== "*" && wanted[at] !== given[at])) return false;
  }
  return wanted.length === given.length;
}

function incoming(message) {
  return {
    name: message.name ?? "",
    value: valueOf(message),
    from: { user: message.from_user ?? "", session: message.from_session ?? "", device: message.from_device ?? "" },
    metadata: message.metadata ?? {},
    message,
  };
}

function errorOf(message) {
  const detail = isObject(message.body) ? message.body : {};
  const text = detail.message ?? message.text ?? "error";
  return new RelayError(text, message.error ?? 1, message.temporary === true, message.outcome ?? "unknown", detail.data);
}

// --- the client ------------------------------------------------------------------------------------------------------

const DEFAULTS = {
  connectTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  backoffMinMs: 200,
  backoffMaxMs: 15_000,
  heartbeatMs: 0,
  pendingMax: 10_000,
  keptMax: 10_000,
};

/** One session. Events: `open` (welcome), `resumed`, `reset` (a new session took the old one's place), `away` (the
 * connection is lost, or was refused), `push` (a push; detail as in subscribe), `closed` (for good; detail: goodbye). */
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
    this.serving = new Map(); // seq of the server -> AbortController
    this.unreportedBytes = 0;
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

  /** To all members of a channel; resolves with `{reached, offset?, epoch?}`. */
  async publish(channel, value, { noEcho = false, ...fields } = {}) {
    const flags = noEcho ? ["no_echo"] : [];
    const reply = await this._request({ kind: "publish", name: channel, flags, ...fields, ...bodyOf(value) });
    return { reached: reply.reached ?? 0, offset: reply.offset, epoch: reply.epoch };
  }

  /** Calls `callback(event)` for each publication; with `presence` `onJoined(member, channel)` and `onLeft`, and for
   * patterns `onOccupied(channel)` and `onVacated`: these also tell of a user, as `$user.NAME`. */
  async subscribe(pattern, callback, { presence = false, role, info, onJoined, onLeft, onOccupied, onVacated } = {}) {
    let entry = this.subscriptions.get(pattern);
    const fresh = !entry;
    if (fresh) this.subscriptions.set(pattern, (entry = { callbacks: new Set(), options: {} }));
    const own = { callback, onJoined, onLeft, onOccupied, onVacated };
    entry.callbacks.add(own);
    entry.options = { presence: presence || entry.options.presence, role, info };
    try {
      const reply = await this._request({ kind: "subscribe", name: pattern, body: entry.options });
      return {
        members: reply.body?.presence ?? [],
        user: pattern.startsWith("$user.") ? reply.body : undefined,
        unsubscribe: async () => {
          entry.callbacks.delete(own);
          if (entry.callbacks.size === 0 && this.subscriptions.get(pattern) === entry) {
            this.subscriptions.delete(pattern);
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

  /** Tells `{user, device?}`, `{session}`, `{all: true}` or `{procedure}`; resolves with `{addressed, reached}`. */
  async push(target, name, value, { noEcho = false, ...fields } = {}) {
    const flags = noEcho ? ["no_echo"] : [];
    const reply = await this._request({ kind: "push", name, flags, ...target, ...fields, ...bodyOf(value) });
    return { addressed: reply.addressed ?? 0, reached: reply.reached ?? 0 };
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
      const fresh = this.kept.filter(({ sent, message }) => !sent && this.requests.has(message.seq) && !ANSWERS.has(message.kind));
      this.received = this.reported = this.unreportedBytes = 0;
      this.kept = [];
      if (before) this._reset(fresh.map(({ message }) => message));
      for (const { message } of fresh) this._transmit(message);
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
    for (const [name, { options }] of this.subscriptions) again("subscribe", name, options);
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
    if (message.flags?.includes("more")) request.onProgress?.(valueOf(message));
    else this._settle(message.seq, () => request.resolve(message));
  }

  _on_error(message) {
    const request = this.requests.get(message.seq);
    if (request) this._settle(message.seq, () => request.reject(errorOf(message)));
    else if (!message.seq) this._complain(message, errorOf(message));
  }

  _on_event(message) {
    const event = incoming(message);
    for (const [pattern, entry] of this.subscriptions) {
      if (matches(pattern, event.name)) for (const { callback } of entry.callbacks) callback?.(event);
    }
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

  _request(message, { onProgress, timeoutMs = this.options.requestTimeoutMs, signal } = {}) {
    return new Promise((resolve, reject) => {
      if (this.state === "closed") throw new RelayError("the session is closed", 44, true, "not_done");
      if (this.requests.size >= this.options.pendingMax) {
        throw new RelayError("too many requests under way", 41, true, "not_done");
      }
      do this.seq = (this.seq % 0xffffffff) + 1; while (this.requests.has(this.seq));
      const seq = this.seq;
      this._transmit({ ...message, seq });
      const cancel = (error) => {
        if (!this.requests.has(seq)) return;
        if (message.kind === "pull") this._transmit({ kind: "cancel", seq });
        this._settle(seq, () => reject(error));
      };
      // The server keeps the deadline of a pull; this one is for a connection that does not come back.
      const timer = setTimeout(() => cancel(new RelayError("no answer in time", 33, true, "unknown")), timeoutMs + 1000);
      const onAbort = () => cancel(new RelayError("cancelled", 34, false, "unknown"));
      signal?.addEventListener("abort", onAbort, { once: true });
      this.requests.set(seq, { resolve, reject, onProgress, timer, forget: () => signal?.removeEventListener("abort", onAbort) });
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
