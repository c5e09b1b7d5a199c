"""The section ``cluster.keys`` of the configuration: what a cluster replicates."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from relay.cluster.kv.commands import Limits
from relay.config_types import Positive, PositiveSeconds, Section

_LIMITS = Limits()


class ClusterKeys(Section, frozen=True, kw_only=True):
    """Keys, leases, elections and client sessions of the cluster; `docs/cluster-kv.md`.

    All but the last five are the cluster's: those of the node that leads count, for all nodes.
    """

    keys_max: Annotated[Positive, Meta(description="keys")] = _LIMITS.keys_max
    bytes_max: Annotated[Positive, Meta(description="keys and values together")] = _LIMITS.bytes_max
    key_bytes_max: Annotated[int, Meta(ge=1, le=4096, description="longest key")] = _LIMITS.key_bytes_max
    value_bytes_max: Annotated[int, Meta(ge=1, le=262_144, description="largest value")] = _LIMITS.value_bytes_max
    txn_operations_max: Annotated[int, Meta(ge=2, le=4096, description="steps and conditions of one transaction")] = (
        _LIMITS.txn_operations_max
    )
    delete_keys_max: Annotated[Positive, Meta(description="keys that are deleted by one prefix")] = (
        _LIMITS.delete_keys_max
    )
    result_bytes_max: Annotated[Positive, Meta(description="values that one transaction reads")] = (
        _LIMITS.result_bytes_max
    )
    leases_max: Annotated[Positive, Meta(description="leases")] = _LIMITS.leases_max
    lease_ttl_ms_min: Annotated[Positive, Meta(description="shortest lease")] = _LIMITS.lease_ttl_ms_min
    lease_ttl_ms_max: Annotated[Positive, Meta(description="longest lease")] = _LIMITS.lease_ttl_ms_max
    candidates_max: Annotated[Positive, Meta(description="candidates of one election")] = _LIMITS.candidates_max
    sessions_max: Annotated[
        int, Meta(ge=16, le=1_000_000, description="sessions of clients and nodes; the longest idle makes room")
    ] = _LIMITS.sessions_max
    session_results_max: Annotated[
        int, Meta(ge=16, le=65_536, description="results that a session has not acknowledged")
    ] = _LIMITS.session_results_max
    session_bytes_max: Annotated[Positive, Meta(description="values in the results of all sessions")] = (
        _LIMITS.session_bytes_max
    )
    history_events_max: Annotated[Positive, Meta(description="changes that a watch may begin at")] = (
        _LIMITS.history_events_max
    )
    history_bytes_max: Annotated[Positive, Meta(description="the same in bytes")] = _LIMITS.history_bytes_max
    writes_max: Annotated[Positive, Meta(description="writes under way on the node")] = 512
    write_timeout_s: Annotated[
        PositiveSeconds,
        Meta(
            description="a write is tried for so long; then it ends as not done, or as unknown. Less than clients wait "
            "(`relay raft` 10 s), or they do not hear which"
        ),
    ] = 8.0
    watches_max: Annotated[Positive, Meta(description="watches on the node")] = 1000
    election_ttl_s: Annotated[
        PositiveSeconds, Meta(description="lease of the node's own candidacies: a crash hands over after this")
    ] = 5.0

    candidacies_max: Annotated[Positive, Meta(description="elections in which the node is a candidate")] = 1000

    def limits(self) -> Limits:
        """Those of the state."""
        return Limits(**{name: getattr(self, name) for name in Limits.__struct_fields__})
