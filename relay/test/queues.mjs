// node queues.mjs MODULES WS_URL: the browser module's queues against a node. Prints "ok", or what is wrong.

import assert from "node:assert/strict";

const [modules, url] = process.argv.slice(2);
const { connect } = await import(`${modules}/relay.js`);
const { Queues } = await import(`${modules}/relay-queues.js`);

const until = async (what, is) => {
  for (let tries = 0; !(await is()); tries += 1) {
    assert.ok(tries < 2000, what);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

const client = await connect(url, { user: "ann", backoffMinMs: 10 });
const other = await connect(url, { user: "bob" });
const troubles = [];
client.addEventListener("trouble", ({ detail }) => troubles.push(detail.error.message));
const queues = new Queues(client);
const others = new Queues(other);

// A handler: acknowledged when it resolves, again when it throws.
const seen = [];
const first = await queues.consume("quick.js", async (delivery) => {
  seen.push([delivery.value, delivery.deliveries]);
  if (delivery.deliveries === 1 && delivery.value.n === 2) throw new Error("not yet");
});
for (const n of [1, 2, 3]) assert.equal((await others.enqueue("quick.js", { n }, { name: "job.new" })).offset, n);
await until("all are acknowledged", async () => (await others.command("quick.js", "info")).waiting === 0);
assert.deepEqual(seen.filter(([{ n }]) => n === 2), [[{ n: 2 }, 1], [{ n: 2 }, 2]]);
assert.equal(seen.length, 4);
assert.deepEqual(troubles, ["not yet"]);
await assert.rejects(queues.consume("quick.js", () => {}), /consumed already/);
await first.stop();

// A key: stored once. The inbox: what was pushed at level 1.
const once = await others.enqueue("quick.once", "x", { idempotency_key: "k" });
assert.equal((await others.enqueue("quick.once", "x", { idempotency_key: "k" })).offset, once.offset);
assert.equal((await other.push({ user: "ann" }, "news", "hello", { level: 1 })).offset, 1);
const held = [];
await queues.consume("$inbox", (delivery) => { held.push(delivery); }, { explicit: true });
await until("the inbox is delivered", () => held.length === 1);
assert.deepEqual([held[0].name, held[0].value, held[0].from.user, held[0].queue], ["news", "hello", "bob", "$inbox"]);

// A lost connection: the session is resumed and goes on with what it holds.
const resumed = new Promise((resolve) => client.addEventListener("resumed", resolve, { once: true }));
client.socket.close();
await resumed;
await held[0].ack();
await assert.rejects(held[0].ack(), /once/);

// A lost session: consumed again, and what was held comes again; the old delivery is not ours any more.
await other.push({ user: "ann" }, "news", "again", { level: 1 });
await until("the second is delivered", () => held.length === 2);
const reset = new Promise((resolve) => client.addEventListener("reset", resolve, { once: true }));
client.welcome.secret = "wrong";
client.socket.close();
await reset;
await assert.rejects(held[1].ack(), /is over/);
await until("it comes again when the old session has ended", () => held.length === 3);
assert.deepEqual([held[2].value, held[2].deliveries, held[2].offset], ["again", 2, held[1].offset]);
await held[2].ack();
client.close();
other.close();
console.log("ok");
