// The page at "/": people, channels, direct messages and procedures, on relay.js alone. It is also the example of how
// to use that module; nothing here is needed by it.

import { connect, RelayError } from "/relay.js";

const LOBBY = "lobby";
const FRAMES_MAX = 300;
const MESSAGES_MAX = 2000;
const HISTORY = 50;
const $ = (id) => document.getElementById(id);

let relay = null;
let current = null;
const talks = new Map(); // "channel:lobby" or "user:ann" -> {kind, name, messages, unread}
const people = new Map(); // user -> Set of sessions
let frames = 0;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// --- talks -----------------------------------------------------------------------------------------------------------

function talkOf(kind, name) {
  const key = `${kind}:${name}`;
  if (!talks.has(key)) talks.set(key, { key, kind, name, messages: [], unread: 0 });
  return talks.get(key);
}

function show(talk) {
  current = talk;
  talk.unread = 0;
  title();
  if (talk.kind === "user") watch(talk);
  $("messages").replaceChildren(...talk.messages.map(line));
  $("messages").scrollTop = $("messages").scrollHeight;
  $("text").focus();
  lists();
}

function title() {
  const state = current.state ? element("span", current.state, "state") : "";
  $("title").replaceChildren(current.kind === "channel" ? `# ${current.name}` : `@ ${current.name}`, state);
}

/** Whether the other one is here, and when last; where that may not be known, nothing is shown. */
async function watch(talk) {
  if (talk.watched) return;
  talk.watched = true;
  const set = ({ online, last_seen }) => {
    talk.state = online ? "here" : last_seen ? `last seen ${new Date(last_seen).toLocaleString()}` : "not seen yet";
    if (talk === current) title();
  };
  try {
    const { user } = await relay.subscribe(`$user.${talk.name}`, null, {
      onOccupied: () => set({ online: true }),
      onVacated: () => set({ last_seen: Date.now() }),
    });
    set(user);
    relay.addEventListener("reset", async () => set(await relay.presence({ user: talk.name })));
  } catch (error) {
    if (error.code !== 21) note(error.message, true);
  }
}

function line(message) {
  const item = element("li", undefined, message.className);
  if (message.who) item.append(element("span", message.who, "who"));
  item.append(element("span", message.text, "text"));
  if (message.who) {
    const when = element("time", message.at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
    when.dateTime = message.at.toISOString();
    item.append(when);
  }
  return item;
}

function add(talk, who, text, className, at = new Date()) {
  const message = { who, text, className, at };
  talk.messages.push(message);
  if (talk.messages.length > MESSAGES_MAX) talk.messages.shift();
  if (talk === current) {
    const list = $("messages");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    list.append(line(message));
    while (list.children.length > MESSAGES_MAX) list.firstChild.remove();
    if (atEnd || className === "own") list.scrollTop = list.scrollHeight;
  } else if (who) {
    talk.unread += 1;
    lists();
  }
}

const note = (text, bad = false) => current && add(current, "", text, bad ? "note bad" : "note");
const textOf = (value) => (typeof value === "string" ? value : value?.text ?? JSON.stringify(value) ?? "");

// --- lists -----------------------------------------------------------------------------------------------------------

function entry(talk, label) {
  const item = element("li");
  item.append(element("span", label));
  if (talk.unread) item.append(element("span", String(talk.unread), "unread"));
  item.tabIndex = 0;
  item.dataset.talk = talk.key;
  item.setAttribute("aria-current", String(talk === current));
  item.onclick = () => show(talk);
  item.onkeydown = (event) => event.key === "Enter" && show(talk);
  return item;
}

function lists() {
  const channels = [...talks.values()].filter((talk) => talk.kind === "channel");
  $("channels").replaceChildren(...channels.map((talk) => entry(talk, `# ${talk.name}`)));
  const users = new Set([...people.keys()].filter((user) => user !== relay.user));
  for (const talk of talks.values()) if (talk.kind === "user" && talk.name !== relay.user) users.add(talk.name);
  const own = element("li", undefined, "self");
  own.append(element("span", `${relay.user} (you)`));
  const others = [...users].sort().map((user) => entry(talkOf("user", user), user));
  $("people").replaceChildren(own, ...others);
  $("count").textContent = String(people.size);
  $("procedures").replaceChildren(...[...users].map((user) => Object.assign(element("option"), { value: `hello.${user}` })));
}

function present(member, here) {
  const user = member.user || member.session;
  const sessions = people.get(user) ?? new Set();
  if (here) sessions.add(member.id ?? member.session);
  else sessions.delete(member.id ?? member.session);
  if (sessions.size) people.set(user, sessions);
  else people.delete(user);
  lists();
}

async function join(name) {
  const talk = talkOf("channel", name);
  const { members } = await relay.subscribe(name, (event) => {
    const own = event.from.session === relay.session;
    const { accepted_at: at } = event.message;
    add(talk, event.from.user || event.from.session, textOf(event.value), own ? "own" : "", at ? new Date(at) : new Date());
  }, name === LOBBY ? {
    last: HISTORY,
    presence: true,
    onJoined: (member) => present(member, true),
    onLeft: (member) => present(member, false),
  } : { last: HISTORY });
  for (const member of members) present(member, true);
  lists();
  return talk;
}

// --- the wire --------------------------------------------------------------------------------------------------------

function frame(direction, text) {
  frames += 1;
  $("frame-count").textContent = String(frames);
  const list = $("frames");
  const item = element("li", text.length > 2000 ? `${text.slice(0, 2000)} … ${text.length} characters` : text, direction);
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  while (list.children.length > FRAMES_MAX) list.firstChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

// --- signing in and out ----------------------------------------------------------------------------------------------

function status(text, className) {
  $("status").textContent = text;
  $("status").className = `status ${className}`;
}

function follow(client) {
  const told = (name, action) => client.addEventListener(name, (event) => action(event.detail));
  told("away", () => {
    status("connection lost, coming back …", "away");
  });
  told("resumed", () => {
    status(`connected to node ${client.welcome.node}`, "open");
    note("back again: nothing was missed");
  });
  told("reset", () => {
    status(`connected to node ${client.welcome.node}`, "open");
    people.clear();
    client.presence(LOBBY).then(({ members }) => members.forEach((member) => present(member, true)));
    const lost = [...talks.values()].filter(({ kind, name }) => kind === "channel" && !client.position(name));
    note("back again with a new session");
    for (const talk of lost) add(talk, "", "messages in between may be missing", "note bad");
  });
  told("recovered", ({ channel, recovered }) => {
    const talk = talkOf("channel", channel);
    if (recovered) add(talk, "", "nothing was missed", "note");
    else add(talk, "", "messages in between are missing: they are not kept any more", "note bad");
  });
  told("closed", (bye) => {
    status(bye.text || bye.name, "closed");
    note(`the session has ended: ${bye.text || bye.name}`, true);
    $("text").disabled = true;
  });
  told("gap", ({ frames: count }) => note(`${count} messages were left out: this page was too slow`, true));
  told("trouble", ({ error }) => note(error.message, true));
  client.onPush("dm", (event) => {
    const own = event.from.user === client.user;
    const talk = talkOf("user", own ? event.value.to : event.from.user);
    add(talk, event.from.user, textOf(event.value), own ? "own" : "");
    lists();
  });
}

async function signIn(event) {
  event.preventDefault();
  $("sign-in-error").textContent = "";
  const user = $("name").value.trim();
  try {
    relay = await connect({
      user, token: $("token").value || undefined, realm: $("realm").value || undefined, connectTimeoutMs: 8000,
    });
  } catch (error) {
    $("sign-in-error").textContent = error.message;
    return;
  }
  relay.onframe = frame;
  follow(relay);
  sessionStorage.setItem("relay-name", user);
  $("welcome").hidden = true;
  $("app").hidden = false;
  $("me").textContent = relay.user;
  document.title = `${relay.user} · relay`;
  status(`connected to node ${relay.welcome.node}`, "open");
  try {
    show(await join(LOBBY));
    note("You are in the lobby. Pick somebody on the left to write to them alone.");
    await relay.register(`hello.${relay.user}`, (value, call) => {
      note(`${call.from.user || "somebody"} called hello.${relay.user}`);
      return { hello: call.from.user, from: relay.user, value: value ?? null };
    }, { policy: "round_robin" });
  } catch (error) {
    note(error.message, true);
  }
}

async function send(event) {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  const talk = current;
  try {
    if (talk.kind === "channel") {
      await relay.publish(talk.name, { text });
    } else {
      await relay.push({ user: talk.name }, "dm", { text, to: talk.name });
      await relay.push({ user: relay.user }, "dm", { text, to: talk.name });
    }
  } catch (error) {
    add(talk, "", `not sent: ${error.message}`, "note bad");
  }
}

async function call(event) {
  event.preventDefault();
  const written = $("call-value").value.trim();
  const result = $("call-result");
  result.className = "";
  result.textContent = "…";
  let value;
  try {
    value = written === "" ? undefined : JSON.parse(written);
  } catch {
    value = written;
  }
  try {
    const answer = await relay.pull($("call-name").value.trim(), value, { timeoutMs: 10_000 });
    result.textContent = typeof answer === "string" ? answer : JSON.stringify(answer) ?? "(nothing)";
  } catch (error) {
    result.className = "error";
    result.textContent = error instanceof RelayError ? `${error.message} (${error.code})` : String(error);
  }
}

$("sign-in").addEventListener("submit", signIn);
$("compose").addEventListener("submit", send);
$("call").addEventListener("submit", call);
$("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = $("join-name").value.trim();
  if (!name) return;
  try {
    const known = talks.get(`channel:${name}`);
    show(known ?? (await join(name)));
    $("join-name").value = "";
  } catch (error) {
    note(`cannot join ${name}: ${error.message}`, true);
  }
});
$("show-frames").addEventListener("click", () => {
  const shown = $("wire").hidden;
  $("wire").hidden = !shown;
  $("show-frames").setAttribute("aria-pressed", String(shown));
});
$("clear-frames").addEventListener("click", () => $("frames").replaceChildren());
$("sign-out").addEventListener("click", () => {
  relay.close();
  location.reload();
});
$("name").value = sessionStorage.getItem("relay-name") ?? "";
