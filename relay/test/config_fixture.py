"""For the tests of the configuration: files with a text in them, and any configuration that there can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec.inspect as inspect
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay import config_load, config_shape
from relay.config import Config
from relay.config_types import SecretRef
from relay.errors import ConfigError

# Any: strategies of any values are mixed here.
Strategy = st.SearchStrategy[Any]


PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


class ConfigCase(SynchronousTestCase):
    """Loads texts as files in a directory of the test's own; sentences say ``FILE`` for its name."""

    def file(self, text: str | bytes, name: str = "relay.yaml") -> str:
        """The path of a file with that content."""
        directory = Path(self.mktemp())
        directory.mkdir()
        path = directory / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    def load(self, text: str | bytes, name: str = "relay.yaml", **environ: str) -> Config:
        """The configuration of a file with that text."""
        return config_load.load(self.file(text, name), environ)

    def sentence(self, text: str | bytes, name: str = "relay.yaml", **environ: str) -> str:
        """What loading the text says is wrong."""
        path = self.file(text, name)
        error = self.assertRaises(ConfigError, config_load.load, path, environ)
        return str(error).replace(path, "FILE")

    def variable(self, **environ: str) -> str:
        """What loading variables without a file says is wrong."""
        return str(self.assertRaises(ConfigError, config_load.load, None, environ))


def configs() -> Strategy:
    """Any configuration that the structs allow, with any of its settings given."""
    return _of(config_shape.root())


def _of(shape: inspect.Type) -> Strategy:
    found = config_shape.bare(shape)
    match found:
        case inspect.UnionType():
            return st.one_of([_of(each) for each in found.types])
        case inspect.StructType():
            return st.one_of(_secret_refs()) if found.cls is SecretRef else _structs(found)
        case inspect.VarTupleType():
            least = found.min_length or 0
            return st.lists(_of(found.item_type), min_size=least, max_size=least + 2).map(tuple)
        case inspect.DictType():
            return st.dictionaries(st.text(max_size=8), _of(found.value_type), max_size=2)
        case inspect.LiteralType():
            return st.sampled_from(found.values)
        case inspect.StrType():
            if found.pattern is not None:
                return st.from_regex(found.pattern).filter(lambda each: "\n" not in each)
            return st.text(min_size=found.min_length or 0, max_size=12)
        case inspect.IntType():
            return st.integers(found.ge if found.ge is not None else 1, found.le)
        case inspect.FloatType():
            return st.floats(found.ge or 0, found.le, exclude_min=found.gt is not None)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
    raise AssertionError(f"no strategy for {found!r}")


def _structs(shape: inspect.StructType) -> Strategy:
    """A section with what it needs and up to three more of its settings."""
    of = {each.name: _of(each.type) for each in shape.fields}
    required = [each.name for each in shape.fields if each.required]
    optional = [each.name for each in shape.fields if not each.required]
    chosen = st.lists(st.sampled_from(optional), max_size=3, unique=True) if optional else st.just([])
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: of[name] for name in (*required, *names)})).map(
        lambda values: shape.cls(**values)
    )


def _secret_refs() -> list[Strategy]:
    return [st.builds(SecretRef, file=st.text(min_size=1)), st.builds(SecretRef, env=st.text(min_size=1))]
