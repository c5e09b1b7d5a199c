// Queues for the browser module (and node): put messages, take them, acknowledge them.
//
//   import { connect } from "/relay.js";
//   import { Queues } from "/relay-queues.js";
//   const queues = new Queues(await connect({ user: "ann" }));
//   await queues.enqueue("jobs", { id: 7 });                          // resolves when it is on the server's disk
//   await queues.consume("$inbox", async (delivery) => { … });        // acknowledged when the promise resolves
//
// What a handler throws is refused and delivered again later. A resumed session goes on with what it holds; a new one
// consumes again by itself, and gets what was held once more. Types are in relay-queues.d.ts; the protocol is
// docs/protocol.md, section 9.

import { RelayError, bodyOf, incoming } from "./relay-form.js";

const CREDITS = 8;
const AGAIN_MS = 1000;
const REASON_MAX = 200;

/** One message of a queue: `name`, `value`, `from`, `metadata` as in subscribe, and `queue`, `offset`, `deliveries`.
 * It is settled once, by `ack()` or `nack()`; they resolve when the server has stored that. */
class Delivery {
  constructor(consumer, message) {
    Object.assign(this, incoming(message));
    this.queue = message.queue;
    this.offset = message.offset;
    this.deliveries = message.deliveries;
    this.settled = false;
    this._consumer = consumer;
    this._generation = consumer.generation;
  }

  ack() {
    return this._settle({ kind: "ack" }, true);
  }

  /** `delayMs`: when it comes again (absent: the queue's back-off); `dead`: never. */
  nack({ delayMs, dead, reason } = {}) {
    const body = { delay_ms: delayMs, dead, reason: reason?.slice(0, REASON_MAX) };
    return this._settle({ kind: "nack", body }, true);
  }

  async _settle(message, wait) {
    if (this.settled) throw new RelayError("a message is settled once", 2, false, "not_done");
    this.settled = true;
    const { client } = this._consumer;
    if (this._generation !== this._consumer.generation) {
      if (wait) throw new RelayError("the session that it was delivered to is over", 35, false, "not_done");
      return;
    }
    const frame = { ...message, name: this.queue, offset: this.offset };
    if (wait) await client._request(frame);
    else if (client.state !== "closed") client._transmit(frame);
  }
}

class Consumer {
  constructor(client, queue, handler, options) {
    this.client = client;
    this.queue = queue;
    this.handler = handler;
    this.options = options;
    this.generation = 0;
    this.stopped = false;
  }

  ask() {
    const { credits, leaseMs } = this.options;
    return this.client._request({ kind: "consume", name: this.queue, credits, lease_ms: leaseMs });
  }

  /** In a new session: until it is there, or refused for good. */
  async renew() {
    this.generation += 1;
    const { generation } = this;
    try {
      await this.ask();
    } catch (error) {
      if (this.stopped || generation !== this.generation || this.client.state === "closed") return;
      if (error.temporary) setTimeout(() => generation === this.generation && !this.stopped && this.renew(), AGAIN_MS);
      else this.client._complain({ kind: "consume", name: this.queue }, error);
    }
  }

  async take(message) {
    const delivery = new Delivery(this, message);
    try {
      await this.handler(delivery);
      if (!delivery.settled && !this.options.explicit) await delivery._settle({ kind: "ack" }, false);
    } catch (error) {
      this.client._complain({ kind: "push", name: message.name }, error);
      const body = { reason: String(error?.message ?? error).slice(0, REASON_MAX) };
      if (!delivery.settled) await delivery._settle({ kind: "nack", body }, false);
    }
  }
}

/** What a client can do with queues; one for each client. */
export class Queues {
  constructor(client) {
    this.client = client;
    this.consumers = new Map(); // queue -> Consumer
    client.deliveries = (message) => this._deliver(message);
    client.addEventListener("reset", () => {
      for (const consumer of this.consumers.values()) consumer.renew();
    });
  }

  /** Puts a message; resolves with `{offset}` when it is stored. `name`: the route that the consumer sees. */
  async enqueue(queue, value, { name = queue, ...fields } = {}) {
    const level = fields.idempotency_key ? 2 : undefined;
    const reply = await this.client._request({ kind: "push", name, queue, level, ...fields, ...bodyOf(value) });
    return { offset: reply.offset };
  }

  /** Takes messages: `handler(delivery)` for each, at most `credits` unsettled. With `explicit` the handler settles. */
  async consume(queue, handler, { credits = CREDITS, leaseMs, explicit = false } = {}) {
    if (this.consumers.has(queue)) throw new RelayError(`${queue} is consumed already`, 36, false, "not_done");
    const consumer = new Consumer(this.client, queue, handler, { credits, leaseMs, explicit });
    this.consumers.set(queue, consumer);
    try {
      await consumer.ask();
    } catch (error) {
      this.consumers.delete(queue);
      throw error;
    }
    return {
      stop: async () => {
        if (consumer.stopped) return;
        consumer.stopped = true;
        this.consumers.delete(queue);
        await this.client._request({ kind: "unconsume", name: queue });
      },
    };
  }

  /** Looks after a queue: `info`, `peek`, `dead`, `requeue`, `remove`, `purge`, `pause`, `resume`. */
  async command(queue, op, keys = {}) {
    return (await this.client._request({ kind: "queue", name: queue, body: { op, ...keys } })).body;
  }

  _deliver(message) {
    const consumer = this.consumers.get(message.queue);
    if (consumer) consumer.take(message);
    else this.client._transmit({ kind: "nack", name: message.queue, offset: message.offset, body: { released: true } });
  }
}
