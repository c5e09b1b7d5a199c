"""What a listener serves over HTTP: the page, the browser's module, health and metrics."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Final

import msgspec
from twisted.web.resource import Resource
from twisted.web.server import Request

from relay.admin.metrics import MetricsResource
from relay.core.limits import is_loopback

STATIC: Final[dict[str, tuple[str, str]]] = {
    "": ("index.html", "text/html; charset=utf-8"),
    "relay.js": ("relay.js", "text/javascript; charset=utf-8"),
    "relay-form.js": ("relay-form.js", "text/javascript; charset=utf-8"),
    "relay-positions.js": ("relay-positions.js", "text/javascript; charset=utf-8"),
    "relay.d.ts": ("relay.d.ts", "text/plain; charset=utf-8"),
    "relay-queues.js": ("relay-queues.js", "text/javascript; charset=utf-8"),
    "relay-queues.d.ts": ("relay-queues.d.ts", "text/plain; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> (file in ``relay/admin/static``, content type)."""

SECURITY: Final[dict[bytes, bytes]] = {
    b"content-security-policy": b"default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    # The module may be imported by pages of other sites; whether they may connect is the listener's list of origins.
    b"access-control-allow-origin": b"*",
}


class StaticFile(Resource):
    """One file of the package, kept in memory."""

    isLeaf = True

    def __init__(self, content: bytes, content_type: str) -> None:
        Resource.__init__(self)
        self._content = content
        self._content_type = content_type.encode()

    def render_GET(self, request: Request) -> bytes:
        """The file."""
        request.setHeader(b"content-type", self._content_type)
        request.setHeader(b"cache-control", b"no-cache")
        for name, value in SECURITY.items():
            request.setHeader(name, value)
        return self._content


class Answer(Resource):
    """A small JSON answer made by a function that gives a status code and a value."""

    isLeaf = True

    def __init__(self, make: Callable[[], tuple[int, object]]) -> None:
        Resource.__init__(self)
        self._make = make

    def render_GET(self, request: Request) -> bytes:
        """The answer of this moment."""
        code, value = self._make()
        request.setResponseCode(code)
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        return msgspec.json.encode(value) + b"\n"


class LocalOnly(Resource):
    """``resource`` for clients on this machine; what a proxy brings says for whom it comes, and is refused."""

    isLeaf = True

    def __init__(self, resource: MetricsResource) -> None:
        Resource.__init__(self)
        self._resource = resource

    def render_GET(self, request: Request) -> bytes:
        """The resource, or 403."""
        forwarded = request.getHeader(b"x-forwarded-for") or request.getHeader(b"forwarded")
        host = getattr(request.getClientAddress(), "host", "")
        if forwarded or not is_loopback(host or ""):
            request.setResponseCode(403)
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return b"for this machine only; http.metrics: public serves it to everybody\n"
        return self._resource.render_GET(request)


def site(
    page: bool,
    metrics: Resource | None,
    healthy: Callable[[], tuple[int, object]],
    ready: Callable[[], tuple[int, object]],
) -> Resource:
    """The tree of one listener."""
    root = Resource()
    root.putChild(b"healthz", Answer(healthy))
    root.putChild(b"readyz", Answer(ready))
    if metrics is not None:
        root.putChild(b"metrics", metrics)
    if page:
        static = files("relay.admin") / "static"
        for path, (name, content_type) in STATIC.items():
            root.putChild(path.encode(), StaticFile((static / name).read_bytes(), content_type))
    return root
