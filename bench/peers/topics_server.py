"""A publish and subscribe server on uWebSockets (socketify): python topics_server.py PORT

Binary messages; the first byte says what: ``U`` + user (answered by ``R``), ``S`` + channel (answered by ``K``),
``P`` + length of the channel (one byte) + channel + body. A user is subscribed to the channel ``user.`` + name.
"""

import sys

from socketify import App, CompressOptions, OpCode


def message(ws, data, opcode):
    """One message of a client."""
    if isinstance(data, str):
        data = data.encode()
    kind = data[:1]
    if kind == b"P":
        end = 2 + data[1]
        app.publish(data[2:end].decode(), data[end:], OpCode.BINARY)
    elif kind == b"S":
        ws.subscribe(data[1:].decode())
        ws.send(b"K", OpCode.BINARY)
    elif kind == b"U":
        if len(data) > 1:
            ws.subscribe("user." + data[1:].decode())
        ws.send(b"R", OpCode.BINARY)


app = App()
app.ws(
    "/ws",
    {
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 1 << 24,
        "max_backpressure": 1 << 26,
        "idle_timeout": 960,
        "message": message,
    },
)
app.listen({"port": int(sys.argv[1]), "host": "127.0.0.1"}, lambda config: None)
app.run()
