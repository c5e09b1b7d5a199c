"""The ``relay`` command."""
