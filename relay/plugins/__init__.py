"""The drop-in folder: modules in any directory ``relay/plugins`` on the path are looked through for ``IRelayPlugin``.

This is Twisted's convention for packages that plugins are dropped into (``twisted.plugin``): other distributions put
their modules into a directory ``relay/plugins`` *without* an ``__init__.py``. ``relay.plugin_load`` looks there.
"""
