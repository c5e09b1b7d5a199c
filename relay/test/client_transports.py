"""Scenarios of the client over every transport and in both forms; see ``relay.test.client_scenarios``."""

from __future__ import annotations

from typing import Any

from relay.client.link import CannotConnect
from relay.client.options import ClientOptions, SecureChannel, TlsFiles
from relay.test.client_scenarios import Check, Scenarios, Shell, first
from relay.wire import kinds


@Scenarios.add
async def every_transport_in_both_forms(shell: Shell) -> None:
    """A message goes from each transport and form to all others, values as they were."""
    tls = ClientOptions(tls=TlsFiles(ca=f"{shell.folder}/certificate.pem"))
    clients = [
        await shell.connect(shell.url(scheme, form), user=f"{scheme}-{form}", options=tls)
        for scheme in ("tcp", "unix", "ws", "tls", "wss", "secure", "udp", "udps") for form in ("binary", "json")
        if form == "binary" or not scheme.startswith("udp")
    ]  # fmt: skip
    subscriptions = [await client.subscribe("room.*") for client in clients]
    values: tuple[Any, ...] = ("text", b"\xff\x00", {"a": [1, None]}, 5, "é", b"", [], True, None, 1.5, -1, "", 2, 3)
    for client, value in zip(clients, values, strict=True):
        done = await client.publish("room.1", value, metadata={"k": "v"})
        Check.equal(done and done.reached, len(clients))
        for subscription in subscriptions:
            event = await first(subscription)
            Check.equal((event.name, event.value, event.sender_user, event.metadata),
                        ("room.1", value, client.welcome.user, {"k": "v"}))  # fmt: skip


@Scenarios.add
async def no_trust_no_connection(shell: Shell) -> None:
    """A certificate that nobody vouches for is refused."""
    error = await Check.raises(CannotConnect, shell.connect(shell.url("tls")))
    assert "certificate" in str(error), error


@Scenarios.add
async def keys_of_the_secure_channel(shell: Shell) -> None:
    """A server with another key than the one pinned, or than at first use, is refused with both sides' words."""
    url = shell.url("secure")
    pinned = url.partition("key=")[0] + "key=SHA256:" + "A" * 43
    error = await Check.raises(CannotConnect, shell.connect(pinned))
    assert "not the one expected" in str(error), error
    first_use = url.partition("key=")[0] + "key=first-use"
    known: dict[str, str] = {}
    options = ClientOptions(secure=SecureChannel(known=known))
    await shell.connect(first_use, options=options)
    Check.equal(list(known.values()), [url.partition("key=")[2]])
    await shell.connect(first_use, options=options)
    known.update(dict.fromkeys(known, "SHA256:" + "A" * 43))
    await Check.raises(CannotConnect, shell.connect(first_use, options=options))


@Scenarios.add
async def nobody_listens(shell: Shell) -> None:
    """A refused connection is one clear error; with another address it is none."""
    error = await Check.raises(CannotConnect, shell.connect("tcp://127.0.0.1:1"))
    assert "127.0.0.1:1: " in str(error) and "refused" in str(error).lower(), error
    client = await shell.connect("tcp://127.0.0.1:1", shell.url())
    Check.equal(client.state, "ready")
    await Check.raises(CannotConnect, shell.connect(shell.url("ws").replace("/ws", "/nothing")))


@Scenarios.add
async def filters_and_msgpack(shell: Shell) -> None:
    """Filtered bodies arrive undone by the server, or by this side when it offers to."""
    offers = await shell.connect(shell.url(), options=ClientOptions(filters=("gzip", "crc32c")))
    plain = await shell.connect(shell.url())
    subscriptions = [await client.subscribe("c") for client in (offers, plain)]
    await plain.publish("c", {"a": "x" * 500}, codec="msgpack", filters=("crc32c", "gzip"))
    for subscription, filtered in zip(subscriptions, (True, False), strict=True):
        event = await first(subscription)
        Check.equal((event.value, event.codec), ({"a": "x" * 500}, "msgpack"))
        Check.equal(kinds.FILTERS in (event.message.fields or {}), filtered)
