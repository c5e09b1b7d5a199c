"""For the tests of webhooks: configurations and stores."""

from __future__ import annotations

from typing import Any

from relay.config_store import Store
from relay.config_webhooks import Webhook
from relay.store.memory import MemoryStore

SECRET = "a secret of the tests"


def webhook(**more: Any) -> Webhook:  # Any: settings
    """A configuration."""
    return Webhook(**{"name": "w", "url": "http://127.0.0.1:1/hook", "secret": SECRET, **more})


def memory() -> Any:  # Any: IQueueStore
    """A store of queues."""
    return MemoryStore(Store(), lambda: 0, lambda size: b"x" * size).queues
