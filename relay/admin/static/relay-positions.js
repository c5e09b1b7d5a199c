// Positions in channels that keep history: what has been seen of each, and how what is missing is fetched. A part of
// relay.js.
//
//   event at offset + 1   delivered, the position moves
//         at most offset  seen already: dropped
//         beyond          a gap: held back, while history is asked for what is between
//   a new session         subscriptions to a name ask for what they missed (since); for channels seen through a
//                         pattern history is asked
//   left out, long quiet  history tells whether there is more
//
// What cannot be had is told by the event "recovered" with {channel, recovered: false}, and the channel goes on from
// what is newest.

import { matches } from "./relay-form.js";

const PAGE = 1000;
const FILLS_MAX = 4;
const TRIES_MAX = 5;
const RETRY_MS = 1000;
const SESSIONS_MAX = 16;

const unborn = (track) => track.offset === 0 && track.epoch.startsWith("-");

export class Positions {
  constructor(client) {
    this.client = client;
    this.tracks = new Map(); // channel -> {name, epoch, offset, heardAt, filling, away, again, tries, number, held}
    this.sessions = []; // of this client, for what it asked not to be sent itself
    this.waiting = []; // [track, number]: fills that wait for their turn
    this.active = 0;
    this.session = 0;
    this.timer = undefined;
  }

  /** Behind which publication of the channel this client is, for `since`. */
  of(name) {
    const track = this.tracks.get(name);
    return track && { offset: track.offset, epoch: track.epoch };
  }

  close() {
    clearInterval(this.timer);
    this.timer = undefined;
  }

  // --- events --------------------------------------------------------------------------------------------------------

  event(message) {
    if (message.offset === undefined || message.flags?.includes("retained")) {
      this._deliver(message);
      return;
    }
    const track = this.tracks.get(message.name);
    if (track) {
      track.heardAt = Date.now();
      this._take(track, message);
    } else {
      if (this.client._listens(message.name)) this._track(message.name, message.epoch ?? "", message.offset);
      this._deliver(message);
    }
  }

  /** The server left out frames. */
  leftOut() {
    for (const track of this.tracks.values()) this._check(track);
  }

  /** There is a new session. */
  fresh(session) {
    this.sessions = [...this.sessions, session].slice(-SESSIONS_MAX);
    this.session += 1;
    this.active = 0;
    this.waiting = [];
    for (const track of [...this.tracks.values()]) {
      this._stop(track);
      track.away = true;
      if (!this.client._listens(track.name)) this.tracks.delete(track.name);
    }
  }

  _track(name, epoch, offset) {
    const { positionsMax, positionCheckMs } = this.client.options;
    if (this.tracks.size >= positionsMax) this._drop(this.tracks.values().next().value);
    const track = { name, epoch, offset, heardAt: Date.now(), away: false, number: 0 };
    this._stop(track);
    this.tracks.set(name, track);
    if (this.timer === undefined && positionCheckMs > 0) {
      this.timer = setInterval(() => this._checkQuiet(positionCheckMs), positionCheckMs);
    }
    return track;
  }

  _drop(track) {
    this.tracks.delete(track.name);
    for (const message of track.held) this._deliver(message);
    this._stop(track);
  }

  _stop(track) {
    Object.assign(track, { filling: false, again: false, tries: 0, number: track.number + 1, held: [] });
  }

  _take(track, message) {
    const { offset, epoch = "" } = message;
    if (track.filling) {
      if (track.held.length >= this.client.options.heldMax) {
        track.held = [];
        track.again = true; // what is thrown away is fetched once more
      }
      track.held.push(message);
    } else if (epoch !== track.epoch && !unborn(track)) {
      this._tell(track, false); // the log that the position belongs to is lost
      Object.assign(track, { epoch, offset });
      this._deliver(message);
    } else if (offset === track.offset + 1 || (offset > track.offset && !this.client._listens(track.name, true))) {
      Object.assign(track, { epoch, offset }); // the first publication gives a channel its epoch
      this._deliver(message);
    } else if (offset > track.offset) {
      track.held = [message];
      this._fill(track);
    }
  }

  _tell(track, recovered) {
    track.away = false;
    this.client.dispatchEvent(new CustomEvent("recovered", { detail: { channel: track.name, recovered } }));
  }

  _deliver(message) {
    // This client's own, in an earlier session perhaps, and it asked not to be sent it.
    if (message.flags?.includes("no_echo") && this.sessions.includes(message.from_session)) return;
    this.client._deliver(message);
  }

  // --- subscribing ---------------------------------------------------------------------------------------------------

  /** The options as they are sent: what is to be recovered is asked for once; later it is what was missed. */
  options(name, options, fresh) {
    const track = this.tracks.get(name);
    if (fresh && !track?.away) return options;
    const { since, last, since_time, retained, ...others } = options;
    return fresh ? { ...others, since: this.of(name) } : others;
  }

  /** The server's answer to a subscribe. */
  confirmed(name, sent, body = {}) {
    const track = this.tracks.get(name);
    if (body.offset === undefined) {
      if (track?.away) {
        this._tell(track, false);
        this._drop(track);
      }
      for (const each of this.tracks.values()) {
        if (each.away && !this.client.subscriptions.has(each.name) && matches(name, each.name)) this._check(each);
      }
      return;
    }
    const { epoch = "", offset } = body;
    if (!track) {
      this._track(name, epoch, offset);
    } else if (sent.since || sent.last || sent.since_time) {
      this._stop(track);
      if (track.away) this._tell(track, body.recovered === true);
      Object.assign(track, { epoch, offset, heardAt: Date.now() });
    } else if (track.partial && track.epoch === epoch && !track.filling) {
      track.offset = Math.max(track.offset, offset); // what is before was left out on purpose
    }
    this.tracks.get(name).partial = Boolean(sent.tags || sent.max_rate);
  }

  /** Nobody wants that name or pattern any more: what nobody hears of is not followed. */
  released(pattern) {
    for (const track of [...this.tracks.values()]) {
      if (matches(pattern, track.name) && !this.client._listens(track.name)) this._drop(track);
    }
  }

  // --- asking for history --------------------------------------------------------------------------------------------

  _checkQuiet(period) {
    if (this.client.state !== "open") return;
    for (const track of this.tracks.values()) {
      if (Date.now() - track.heardAt >= period) {
        track.heardAt = Date.now();
        this._check(track);
      }
    }
  }

  _check(track) {
    if (!track.filling && this.client._listens(track.name, true)) this._fill(track);
  }

  _fill(track) {
    track.filling = true;
    this.waiting.push([track, track.number]);
    this._goOn();
  }

  _goOn() {
    while (this.waiting.length && this.active < FILLS_MAX) {
      const [track, number] = this.waiting.shift();
      if (track.number === number) {
        this.active += 1;
        this._ask(track, number, this.session);
      }
    }
  }

  async _ask(track, number, session) {
    const current = () => session === this.session && track.number === number;
    let more = true;
    try {
      while (more && current()) {
        const page = await this.client._page(track.name, { after: track.offset, limit: PAGE, epoch: track.epoch });
        more = current() && this._page(track, page);
      }
    } catch (error) {
      if (current()) this._failed(track, number, error);
    }
    if (session === this.session) {
      this.active -= 1;
      this._goOn();
    }
  }

  _failed(track, number, error) {
    track.tries += 1;
    if (error.temporary && track.tries < TRIES_MAX && this.client.state !== "closed") {
      setTimeout(() => track.number === number && this._fill(track), RETRY_MS * track.tries);
    } else {
      this._lost(track, track.epoch, track.offset);
    }
  }

  /** What the server has behind the position; whether to ask on. */
  _page(track, { messages, end }) {
    const found = messages.filter(({ offset }) => offset > track.offset);
    const begun = unborn(track) && found[0]?.offset === 1;
    const last = end.last ?? 0;
    const trimmed = last > track.offset && end.first > track.offset + 1;
    if ((end.epoch !== track.epoch && !begun) || trimmed || last < track.offset) {
      this._lost(track, end.epoch ?? "", last);
      return false;
    }
    track.epoch = end.epoch ?? "";
    for (const message of found) this._deliver({ ...message, kind: "event", seq: 0 });
    track.offset = end.next || last;
    if (end.next) return true;
    if (track.away) this._tell(track, true);
    this._resume(track);
    return false;
  }

  _lost(track, epoch, offset) {
    this._tell(track, false);
    const known = { [track.epoch]: track.offset };
    known[epoch] = Math.max(offset, known[epoch] ?? 0);
    Object.assign(track, { epoch, offset: known[epoch] });
    const [first] = track.held;
    if (first) {
      track.epoch = first.epoch ?? "";
      track.offset = Math.max(known[track.epoch] ?? 0, first.offset - 1);
    }
    this._resume(track);
  }

  _resume(track) {
    const { held, again } = track;
    this._stop(track);
    for (const message of held) this._take(track, message);
    if (again) this._check(track);
  }
}
