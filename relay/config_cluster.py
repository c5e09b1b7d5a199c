"""The section ``cluster`` of the configuration: one node of several."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from relay.config_keys import ClusterKeys
from relay.config_types import WHOLE_MAX, Name, Positive, PositiveSeconds, Secret, Section, Text


class ClusterPeer(Section, frozen=True, kw_only=True):
    """A node of the cluster, this one too."""

    node: Annotated[
        int, Meta(ge=1, le=WHOLE_MAX, description="its id; never one that had another data directory before")
    ]
    address: Annotated[
        Text, Meta(description="where it is dialled, a Twisted client endpoint string: `tcp:10.0.0.2:7400`")
    ]
    voter: Annotated[
        bool, Meta(description="one of the voters that found the cluster; false: a node that joins later")
    ] = True


class Cluster(Section, frozen=True, kw_only=True):
    """Several nodes that replicate state by Raft; `docs/cluster.md`."""

    name: Annotated[Name, Meta(description="the cluster's name, the same on all nodes")]
    node: Annotated[int, Meta(ge=1, le=WHOLE_MAX, description="this node's id, one of `peers`")]
    listen: Annotated[
        Text, Meta(description="where other nodes link, a Twisted endpoint string: `tcp:7400:interface=127.0.0.1`")
    ]
    peers: Annotated[tuple[ClusterPeer, ...], Meta(min_length=1, description="all nodes, this one too")]
    secret: Annotated[
        Secret,
        Meta(
            description="what nodes prove to know when they link, and what encrypts their links; needed unless "
            "`listen` is local"
        ),
    ] = ""
    profile: Annotated[
        Literal["lan", "wan"],
        Meta(
            description="timing: `lan` heartbeats 50 ms, elections after 300 to 600 ms; `wan` 300 ms, 2.5 to 5 s"
        ),
    ] = "lan"
    api: Annotated[
        Literal["local", "permitted"],
        Meta(
            description="who may call `$raft.…` besides sessions with a `call` permission that begins with `$raft`: "
            "those from this machine over plain TCP or a Unix socket that may call everything, or nobody"
        ),
    ] = "local"
    keys: ClusterKeys = ClusterKeys()
    proposal_bytes_max: Annotated[
        int, Meta(ge=1024, le=2_097_152, description="largest command of a replicated state machine")
    ] = 1_048_576
    proposals_max: Annotated[
        int, Meta(gt=0, le=262_144, description="commands of a group on this node that wait")
    ] = 65_536
    uncommitted_bytes_max: Annotated[
        int,
        Meta(gt=0, le=25_165_824, description="commands of a group that the leader has taken and no majority has yet"),
    ] = 16_777_216
    request_timeout_s: Annotated[
        PositiveSeconds, Meta(description="a command without its outcome ends as unknown, a read as failed")
    ] = 5.0
    snapshot_log_bytes: Annotated[
        Positive, Meta(description="a group takes a snapshot when its log has grown by so much")
    ] = 16_777_216
    log_bytes_max: Annotated[
        int, Meta(ge=268_435_456, le=WHOLE_MAX, description="the log of all groups on disk; then commands are refused")
    ] = 17_179_869_184
    groups_max: Annotated[int, Meta(ge=1, le=4096, description="groups of the node")] = 4096
    link_queue_bytes_max: Annotated[
        int, Meta(ge=4_194_304, le=WHOLE_MAX, description="entries that wait for the link to one node")
    ] = 33_554_432
    metrics_groups_max: Annotated[
        int,
        Meta(ge=0, le=4096, description="groups that have lines of their own on /metrics; sums are always over all"),
    ] = 64
    links_max: Annotated[Positive, Meta(description="links accepted at once")] = 64
