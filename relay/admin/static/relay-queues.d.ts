import type { Client, Fields, Incoming, Value } from "./relay.js";

export interface Delivery extends Incoming {
  readonly queue: string;
  readonly offset: number;
  /** 1 for the first delivery of the message. */
  readonly deliveries: number;
  readonly settled: boolean;
  ack(): Promise<void>;
  nack(options?: { delayMs?: number; dead?: boolean; reason?: string }): Promise<void>;
}

export interface ConsumeOptions {
  /** Messages that are unsettled at a time; 8. */
  credits?: number;
  /** How long one may take; absent: the queue's. */
  leaseMs?: number;
  /** The handler calls `ack` or `nack` itself. */
  explicit?: boolean;
}

export interface EnqueueOptions extends Fields {
  /** The route that the consumer sees; default: the queue's name. */
  name?: string;
  /** Unix time in ms. */
  deliver_at?: number;
  /** Stored once, however often it is sent within the queue's window. */
  idempotency_key?: string;
}

export type Op = "info" | "peek" | "dead" | "requeue" | "remove" | "purge" | "pause" | "resume";

export class Queues {
  constructor(client: Client);
  enqueue(queue: string, value?: Value, options?: EnqueueOptions): Promise<{ offset: number }>;
  consume(queue: string, handler: (delivery: Delivery) => void | Promise<void>, options?: ConsumeOptions):
    Promise<{ stop(): Promise<void> }>;
  command(queue: string, op: Op, keys?: { after?: number; limit?: number; offsets?: number[] }):
    Promise<Record<string, Value>>;
}
