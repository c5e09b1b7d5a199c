// What relay.js does about history, in a browser on the page of a real node; test_browser_recovery.py runs it.
//
// The node keeps "mem.**", 50 publications of each, ends sessions 0.2 s after their connection, and reads seven
// publications at once. Says "all well", or what was not.

const done = arguments[arguments.length - 1];

const assert = {
  ok(value, text) {
    if (!value) throw new Error(text);
  },
  equal(given, wanted) {
    if (given !== wanted) throw new Error(`${JSON.stringify(given)} is not ${JSON.stringify(wanted)}`);
  },
  deepEqual(given, wanted) {
    this.equal(JSON.stringify(given), JSON.stringify(wanted));
  },
};

async function recovery() {
  const { connect, RelayError } = await import("/relay.js");
  const FAST = { backoffMinMs: 10, backoffMaxMs: 20 };

  const once = (client, name) => new Promise((resolve) => client.addEventListener(name, (event) => resolve(event.detail), { once: true }));
  async function until(condition, what) {
    for (let tries = 0; !condition(); tries += 1) {
      assert.ok(tries < 1000, what());
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  // Away until the session is over: the socket is gone and nothing dials before `lasts` ms.
  async function away(client, lasts, meanwhile) {
    client.retryAfterMs = lasts;
    const { socket } = client;
    socket.close(4000);
    client._lost({ code: 4000 });
    await meanwhile();
  }

  const writer = await connect();
  const publish = async (name, from, count) => {
    for (let number = from; number < from + count; number += 1) await writer.publish(name, number);
  };

  // --- subscribing with options ---
  await publish("mem.a", 1, 10);
  const seen = [];
  const reader = await connect(FAST);
  const recovered = [];
  reader.addEventListener("recovered", ({ detail }) => recovered.push(detail));
  const subscription = await reader.subscribe("mem.a", (event) => seen.push(event.value), { last: 3 });
  assert.equal(subscription.recovered, true);
  await until(() => seen.length === 3, () => `${seen}`);
  assert.deepEqual(seen, [8, 9, 10]);
  const refused = await reader.subscribe("mem.a", null, { last: 3 }).catch((error) => error);
  assert.ok(refused instanceof RelayError && refused.code === 36, `${refused}`);

  // --- history, in pages, both ways ---
  const forwards = await reader.history("mem.a");
  assert.deepEqual(forwards.events.map(({ value }) => value), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  assert.equal(forwards.next, 0);
  const back = await reader.history("mem.a", { backwards: true, limit: 7 });
  assert.deepEqual(back.events.map(({ value }) => value), [10, 9, 8, 7, 6, 5, 4]);
  assert.equal(back.next, 4);

  // --- a name and a pattern, across a session that ended ---
  const other = [];
  await reader.subscribe("mem.b.*", (event) => other.push(event.value));
  await publish("mem.b.1", 1, 1);
  await until(() => other.length === 1, () => `${other}`);
  const reset = once(reader, "reset");
  await away(reader, 800, async () => {
    await publish("mem.a", 11, 25);
    await publish("mem.b.1", 2, 25);
  });
  await reset;
  await until(() => seen.length === 28 && other.length === 26, () => `${seen} ${other}`);
  assert.deepEqual(seen, Array.from({ length: 28 }, (_, index) => index + 8));
  assert.deepEqual(other, Array.from({ length: 26 }, (_, index) => index + 1));
  await until(() => recovered.length === 2, () => JSON.stringify(recovered));
  assert.ok(recovered.every((each) => each.recovered), JSON.stringify(recovered));

  // --- a frame that is lost on the way is fetched ---
  const frame = reader._frame.bind(reader);
  let swallow = 2;
  reader._frame = (text) => {
    if (text.includes('"kind":"event"') && swallow > 0) {
      swallow -= 1;
      reader.received += 1;
    } else {
      frame(text);
    }
  };
  await publish("mem.a", 36, 4);
  await until(() => seen.length === 32, () => `${seen}`);
  assert.deepEqual(seen.slice(-4), [36, 37, 38, 39]);

  // --- tags, of several callbacks on one subscription ---
  const tagged = [];
  const all = [];
  await reader.subscribe("mem.t", (event) => tagged.push(event.value), { tags: { a: "x" } });
  await writer.publish("mem.t", 1, { tags: { a: "x" } });
  await writer.publish("mem.t", 2, { tags: { a: "y" } });
  await reader.subscribe("mem.t", (event) => all.push(event.value));
  await writer.publish("mem.t", 3, { tags: { a: "y" } });
  await writer.publish("mem.t", 4, { tags: { a: "x" } });
  await until(() => all.length === 2, () => `${all}`);
  assert.deepEqual([tagged, all], [[1, 4], [3, 4]]);

  // --- what cannot be had is told, and nothing of it comes ---
  const gone = once(reader, "recovered");
  await away(reader, 800, () => publish("mem.a", 40, 70)); // the node keeps 50
  assert.equal((await gone).recovered !== undefined, true);
  await until(() => recovered.some((each) => each.channel === "mem.a" && !each.recovered), () => JSON.stringify(recovered));
  await publish("mem.a", 110, 1);
  await until(() => seen.at(-1) === 110, () => `${seen.slice(-5)}`);
  assert.deepEqual(seen.slice(-2), [39, 110]);

  // --- a publish with a key is asked again, and taken once ---
  const key = { idempotency_key: "once" };
  const first = await reader.publish("mem.k", 1, key);
  const write = reader._write.bind(reader);
  let answer;
  await away(reader, 500, async () => {
    answer = reader.publish("mem.k", 1, key);
  });
  assert.deepEqual(await answer, { ...first, reached: 0 });
  reader.close();
  writer.close();
}

recovery().then(() => done("all well"), (error) => done(`${error.stack}`));
