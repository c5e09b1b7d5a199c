// The JSON form of relay's protocol (docs/protocol.md section 2): texts and the objects they stand for. A part of
// relay.js, which shows the public names of it.

export const KINDS = {
  hello: 1, welcome: 2, ping: 3, pong: 4, goodbye: 5, push: 16, pull: 17, reply: 18, error: 19, cancel: 20,
  publish: 32, event: 33, subscribe: 34, unsubscribe: 35, history: 36, presence: 37, joined: 38, left: 39,
  occupied: 40, vacated: 41,
  register: 48, unregister: 49, bind: 56, refresh: 57, ack: 64, nack: 65, credit: 66, consume: 67,
  unconsume: 68, queue: 69,
};
const KIND_NAMES = Object.fromEntries(Object.entries(KINDS).map(([name, number]) => [number, name]));
export const SESSION_KIND_MIN = 16;
export const ANSWERS = new Set(["reply", "error", "cancel"]);

const FLAGS = { more: 1, unordered: 2, unreliable: 4, latest: 8, independent: 16, no_echo: 32, retained: 64 };
export const CODECS = ["raw", "text", "json", "msgpack", "protobuf", "form", "cbor", "wamp"];
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

export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
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
export function bodyOf(value) {
  if (value === undefined) return {};
  if (typeof value === "string") return { text: value };
  if (value instanceof Uint8Array) return { data: toBase64(value) };
  if (value instanceof ArrayBuffer) return { data: toBase64(new Uint8Array(value)) };
  return { body: value };
}

/** The value of a message's body: JSON as a value, text as a string, everything else as bytes. */
export function valueOf(message) {
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

export function incoming(message) {
  return {
    name: message.name ?? "",
    value: valueOf(message),
    from: { user: message.from_user ?? "", session: message.from_session ?? "", device: message.from_device ?? "" },
    metadata: message.metadata ?? {},
    message,
  };
}

export function errorOf(message) {
  const detail = isObject(message.body) ? message.body : {};
  const text = detail.message ?? message.text ?? "error";
  return new RelayError(text, message.error ?? 1, message.temporary === true, message.outcome ?? "unknown", detail.data);
}
