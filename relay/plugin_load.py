"""Finds plugins: those that ``twisted.plugin`` discovers, and those that the configuration names.

    discovered    objects in modules of ``relay.plugins`` that provide ``IPlugin`` and ``IRelayPlugin``, by name
    named         ``module:attribute`` of ``handlers.plugins``, in that order: an object, or a class that is made

A discovered module that cannot be imported is logged and left out; a named one that cannot be had stops the start. So
does a plugin with a hook whose name is nearly right: it would never be called.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, Final

from twisted.logger import Logger
from twisted.plugin import getPlugins, pluginPackagePaths

from relay import plugins as drop_ins
from relay.config import Handlers
from relay.errors import ConfigError
from relay.hooks import HOOKS
from relay.interfaces import IRelayPlugin

NAME_CHARACTERS_MAX: Final = 64
# What a hook's name may begin with; a plugin's own attributes begin otherwise.
HOOK_PREFIXES: Final = ("before_", "after_", "session_")

log = Logger()


def load_plugins(handlers: Handlers) -> list[Any]:  # Any: IRelayPlugin, whose attributes are optional
    """All plugins, in the order in which they are asked. Raises ``ConfigError``."""
    found: list[Any] = []  # Any: as above
    if handlers.discover:
        drop_ins.__path__ += [each for each in pluginPackagePaths(drop_ins.__name__) if each not in drop_ins.__path__]
        found += sorted(getPlugins(IRelayPlugin, drop_ins), key=lambda each: str(each.name))
    found += [_named(reference) for reference in handlers.plugins]
    found = list({id(each): each for each in found}.values())
    names: set[str] = set()
    for plugin in found:
        _check(plugin)
        if plugin.name in names:
            raise ConfigError(f"handlers: two plugins have the name {plugin.name!r}")
        names.add(plugin.name)
    return found


def _named(reference: str) -> Any:  # Any: as above
    """The object behind ``module:attribute``."""
    where = f"handlers.plugins, {reference!r}"
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{where}: module:attribute is expected")
    try:
        found: Any = importlib.import_module(module_name)  # Any: as above
    except Exception as error:
        log.failure("importing {module} failed", module=module_name)
        raise ConfigError(f"{where}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), 1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{where}: {module_name} has no {attribute!r}{hint}")
        found = getattr(found, part)
    if not isinstance(found, type):
        return found
    try:
        return found()
    except Exception as error:
        log.failure("making {reference} failed", reference=reference)
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error


def _check(plugin: Any) -> None:  # Any: as above
    what = f"the plugin {type(plugin).__name__}"
    name = getattr(plugin, "name", None)
    if not isinstance(name, str) or not name.isprintable() or "." in name or not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise ConfigError(f"{what} needs a name: 1-{NAME_CHARACTERS_MAX} characters without '.'")
    for attribute in dir(plugin):
        if attribute.startswith(HOOK_PREFIXES) and attribute not in HOOKS:
            close = difflib.get_close_matches(attribute, HOOKS, 1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"the plugin {name}: there is no hook {attribute!r}{hint}")
