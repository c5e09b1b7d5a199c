"""Scenarios of the client over every transport and in both forms; see ``relay.test.client_scenarios``."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from relay.client.effects import Changed
from relay.client.link import CannotConnect
from relay.client.options import ClientOptions, KcpSettings, SecureChannel, TlsFiles
from relay.client.quic import forget_tickets
from relay.test.client_scenarios import Check, Scenarios, Shell, first
from relay.wire import kinds
from relay.wire.quic_link import APART


@Scenarios.add
async def every_transport_in_both_forms(shell: Shell) -> None:
    """A message goes from each transport and form to all others, values as they were."""
    tls = ClientOptions(tls=TlsFiles(ca=f"{shell.folder}/certificate.pem"))
    clients = [
        await shell.connect(shell.url(scheme, form), user=f"{scheme}-{form}", options=tls)
        for scheme in ("tcp", "unix", "ws", "tls", "wss", "secure", "quic", "udp", "udps")
        for form in ("binary", "json")
        if form == "binary" or not scheme.startswith("udp")
    ]  # fmt: skip
    subscriptions = [await client.subscribe("room.*") for client in clients]
    values: tuple[Any, ...] = (
        "text", b"\xff\x00", {"a": [1, None]}, 5, "é", b"", [], True, None, 1.5, -1, "", 2, 3, 4, 6
    )  # fmt: skip
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
async def quic_apart_and_back(shell: Shell) -> None:
    """Unreliable and independent messages over QUIC both ways; a client that comes back says hello at once (0-RTT)."""
    forget_tickets()
    tls = ClientOptions(tls=TlsFiles(ca=f"{shell.folder}/certificate.pem"))
    for early in (False, True):
        ann = await shell.connect(shell.url("quic"), user="ann", options=tls)
        bob = await shell.connect(shell.url("quic"), user="bob", options=tls)
        events = await bob.subscribe("room")
        for names, flags in (
            (("unreliable",), kinds.UNRELIABLE), (("independent",), kinds.INDEPENDENT),
            (("unreliable", "independent"), APART), ((), 0),
        ):  # fmt: skip
            # The first size is a DATAGRAM frame's, the second a stream's, the third more than the server takes on one.
            for size in (100, 20_000, 600_000):
                await ann.publish("room", "x" * size, flags=names, ack=False)
                event = await first(events)
                Check.equal((len(event.value), event.message.flags & APART), (size, flags))
        transport: Any = ann._driver._line and ann._driver._line.transport
        Check.equal((transport.resumed, transport.early), (early, early))
        for client in (ann, bob):
            Check.equal(client._driver.core.outbound.apart, APART)
            await client.close()
    # The tickets are of connections that trusted the certificate; they do not stand for one that does not.
    error = await Check.raises(CannotConnect, shell.connect(shell.url("quic")))
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


@Scenarios.add
async def udp_that_is_blocked(shell: Shell) -> None:
    """Nothing answers over UDP and KCP: the client goes on over TCP, stays there, and leaves no socket behind."""
    options = ClientOptions(kcp=KcpSettings(key="secret"), fallback_delay_s=0.05, backoff_s_min=0.001)
    tried: list[str] = []

    def changed(state: Changed) -> None:
        if state.state != "waiting":
            tried.append(f"{state.state} {state.address.scheme}")

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        hole = f"127.0.0.1:{silent.getsockname()[1]}"
        client = await shell.connect(
            f"udp://{hole}", f"kcp://{hole}", shell.url(), prefer=True, user="ann", options=options, on_state=changed
        )
        assert client.welcome is not None
        session = client.welcome.session
        inbox = await client.subscribe("c")
        Check.equal(tried, ["connecting udp", "connecting kcp", "connecting tcp", "ready tcp"])
        del tried[:]
        await shell.node("break_connections", "ann")
        await client.publish("c", 1)
        Check.equal((await first(inbox)).value, 1)
        Check.equal((client.welcome.session, tried), (session, ["connecting tcp", "ready tcp"]))
        await client.close()
        # ``close`` waits for every transport of the client: none of the datagram sockets is open any more.
        silent.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                silent.recv(2000)
        await (await shell.connect(shell.url())).presence("c")
        try:
            raise AssertionError(f"{silent.recv(2000)!r} came after the end")
        except BlockingIOError:
            pass


@Scenarios.add
async def udp_that_gets_through(shell: Shell) -> None:
    """Where the best way works nothing else is tried: the session is on UDP, in the secure channel."""
    tried: list[str] = []

    def changed(state: Changed) -> None:
        tried.append(f"{state.state} {state.address.scheme}")

    options = ClientOptions(fallback_delay_s=8.0)
    urls = shell.url("udps"), shell.url("secure")
    client = await shell.connect(*urls, prefer=True, options=options, on_state=changed)
    await client.publish("c", 1)
    Check.equal(tried, ["connecting udp", "ready udp"])


@Scenarios.add
async def a_time_out_closes_the_socket(shell: Shell) -> None:
    """Nobody answers over UDP: one clear error, and the hello is not said again behind it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        options = ClientOptions(connect_timeout_s=0.3)
        url = f"udp://127.0.0.1:{silent.getsockname()[1]}"
        error = await Check.raises(CannotConnect, shell.connect(url, options=options))
        assert "no connection within 0.3 s" in str(error), error
        _, place = silent.recvfrom(2000)
        await (await shell.connect(shell.url())).presence("c")  # event loops close sockets in their next turn
        # Its port is free again: nobody is there to answer.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", place[1]))
