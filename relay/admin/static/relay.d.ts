/** relay for browsers: the JSON form of the relay protocol over WebSocket. See docs/clients.md. */

export type Value = unknown;

export interface Options {
  user?: string;
  device?: string;
  realm?: string;
  /** A bearer token, or a function that gives one: called at each connect, and when the server asks for a new one. */
  token?: string | (() => string | Promise<string>);
  password?: string;
  /** A small JSON value for the server's hooks. */
  info?: Value;
  connectTimeoutMs?: number;
  requestTimeoutMs?: number;
  backoffMinMs?: number;
  backoffMaxMs?: number;
  heartbeatMs?: number;
  /** Requests under way at once. */
  pendingMax?: number;
  /** Frames kept until the server reports them, also while away. */
  keptMax?: number;
  /** Channels with history whose position is remembered. */
  positionsMax?: number;
  /** A channel with history that was quiet for so long is asked whether something was missed; 0: never. */
  positionCheckMs?: number;
  /** Events that wait while what is missing before them is fetched. */
  heldMax?: number;
}

/** A place in a channel's history: behind the publication with that offset. */
export interface Position {
  offset: number;
  epoch: string;
}

/** A frame with the keys of the JSON form (docs/protocol.md). */
export interface Message {
  kind: string | number;
  seq?: number;
  name?: string;
  flags?: (string | number)[];
  refused?: string;
  [key: string]: unknown;
}

export interface Welcome {
  session: string;
  node: string;
  realm: string;
  user?: string;
  device?: string;
  resumed?: boolean;
  heartbeat_ms: number;
  resume_window_ms?: number;
  expires_in_ms?: number;
  subscriptions?: string[];
  features?: string[];
  limits?: Record<string, number>;
}

export interface Incoming {
  name: string;
  value: Value;
  from: { user: string; session: string; device: string };
  metadata: Record<string, string>;
  message: Message;
}

export interface Call extends Incoming {
  signal: AbortSignal;
  /** Sends a progressive reply. */
  progress(value: Value): void;
}

export interface Member {
  session: string;
  user?: string;
  device?: string;
  role?: string;
  info?: Value;
  since?: number;
  /** What joined, left and lists have in common; absent where it is the session. */
  id?: string;
}

export interface UserState {
  online: boolean;
  sessions: number;
  /** Unix time in ms; 0 for who is here, or was never. */
  last_seen: number;
}

export interface SubscribeOptions {
  presence?: boolean;
  role?: string;
  info?: Value;
  /** Recover what was published behind this position. */
  since?: Position;
  /** Recover the newest so many publications. */
  last?: number;
  /** Recover what was accepted at or after this Unix time in ms. */
  sinceTime?: number;
  /** First the channel's last value, flagged `retained`. */
  retained?: boolean;
  /** Only events that have all of these. */
  tags?: Record<string, string>;
  /** At most so many events a second; with `latest` the newest of each conflation key. */
  maxRate?: number;
  latest?: boolean;
  onJoined?(member: Member, channel: string): void;
  onLeft?(member: Member, channel: string): void;
  /** The first member of a channel that the pattern matches; or, of `$user.NAME`, the user is here. */
  onOccupied?(channel: string): void;
  /** The last member is gone; or the user. */
  onVacated?(channel: string): void;
}

export interface Subscription {
  members: Member[];
  /** Of `$user.NAME`. */
  user?: UserState;
  /** Whether what was to be recovered follows; undefined when nothing was. */
  recovered?: boolean;
  /** Where the channel keeps history: the position behind which the events begin. */
  since?: Position;
  unsubscribe(): Promise<void>;
}

export interface HistoryOptions {
  after?: number;
  before?: number;
  sinceTime?: number;
  limit?: number;
  backwards?: boolean;
  epoch?: string;
  tags?: Record<string, string>;
}

export interface History {
  events: Incoming[];
  epoch: string;
  first: number;
  last: number;
  /** Where to go on: `after`, or going backwards `before`; 0: there is no more. */
  next: number;
}

export interface Fields {
  ttl_ms?: number;
  idempotency_key?: string;
  ordering_key?: string;
  conflation_key?: string;
  priority?: number;
  metadata?: Record<string, string>;
  traceparent?: string;
  tracestate?: string;
  tags?: Record<string, string>;
}

export type Target =
  | { user: string; device?: string }
  | { session: string }
  | { procedure: string; provider?: string }
  | { all: true };

export interface PullOptions extends Fields {
  timeoutMs?: number;
  onProgress?(value: Value): void;
  signal?: AbortSignal;
  user?: string;
  device?: string;
  session?: string;
  provider?: string;
}

export type Policy = "single" | "round_robin" | "random" | "least_pending" | "weighted" | "sticky";

export class RelayError extends Error {
  constructor(message: string, code?: number, temporary?: boolean, outcome?: "not_done" | "unknown", data?: Value);
  readonly code: number;
  readonly temporary: boolean;
  readonly outcome: "not_done" | "unknown";
  readonly data?: Value;
}

/** Events: open, resumed, reset, recovered ({channel, recovered}), away, push, goodbye, refresh, gap, trouble, closed. */
export class Client extends EventTarget {
  constructor(url: string | string[], options?: Options);
  readonly state: "new" | "connecting" | "open" | "away" | "closed";
  readonly welcome: Welcome | null;
  readonly user: string;
  readonly session: string;
  /** Sees every frame's text. */
  onframe: ((direction: "in" | "out", text: string) => void) | null;
  /** Takes messages of queues; set by `Queues` of relay-queues.js. */
  deliveries: ((message: Message) => void) | null;
  connect(): Promise<Welcome>;
  publish(channel: string, value?: Value, options?: Fields & { noEcho?: boolean; retained?: boolean }):
    Promise<{ reached: number; offset?: number; epoch?: string }>;
  subscribe(pattern: string, callback?: (event: Incoming) => void, options?: SubscribeOptions): Promise<Subscription>;
  history(channel: string, options?: HistoryOptions): Promise<History>;
  position(channel: string): Position | undefined;
  push(target: Target, name: string, value?: Value,
    options?: Fields & { noEcho?: boolean; level?: 0 | 1 | 2; idempotency_key?: string; deliver_at?: number }):
    Promise<{ addressed: number; reached: number; offset?: number }>;
  pull(name: string, value?: Value, options?: PullOptions): Promise<Value>;
  register(name: string, handler: (value: Value, call: Call) => Value | Promise<Value>,
    options?: { policy?: Policy; weight?: number }): Promise<{ unregister(): Promise<void> }>;
  onPush(name: string, handler: (event: Incoming) => void | Promise<void>): void;
  presence(channel: string, options?: { countOnly?: boolean }): Promise<{ count: number; members: Member[] }>;
  presence(of: { user: string }): Promise<UserState>;
  bind(to: { token: string } | { user: string } | Record<string, never>): Promise<{ user: string }>;
  refresh(token: string): Promise<{ expires_in_ms: number | null }>;
  close(): void;
}

/** Connects; without a URL to the node that served this module. */
export function connect(options?: Options): Promise<Client>;
export function connect(url: string | string[], options?: Options): Promise<Client>;
export function decodeMessage(text: string): Message;
export function encodeMessage(message: Message): string;
export function matches(pattern: string, name: string): boolean;
