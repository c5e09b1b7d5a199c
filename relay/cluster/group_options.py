"""How the groups of a node behave: timing by profile, limits, each with its reason. Times in ticks but for
``tick_s``."""

from __future__ import annotations

from typing import Final

import attrs

LAN: Final = {"tick_s": 0.05, "heartbeat_ticks": 1, "election_ticks": 6}
"""Round trips below 10 ms: heartbeat 50 ms, election after 300 to 600 ms."""
WAN: Final = {"tick_s": 0.1, "heartbeat_ticks": 3, "election_ticks": 25}
"""Round trips up to 300 ms, ten of which fit into the shortest election time-out: 300 ms, 2.5 to 5 s."""
PROFILES: Final = {"lan": LAN, "wan": WAN}


@attrs.frozen(kw_only=True)
class GroupOptions:
    """The limits of a node's groups. Sizes in bytes; the defaults are those of the profile ``lan``."""

    tick_s: float = 0.05
    heartbeat_ticks: int = 1
    election_ticks: int = 6  # to twice as many, at random
    message_bytes_max: int = 256 << 10  # entries of one append
    inflight_max: int = 256  # appends to one node that are not acknowledged
    inflight_bytes_max: int = 4 << 20
    uncommitted_bytes_max: int = 16 << 20  # of one group; then proposals are refused
    proposal_bytes_max: int = 1 << 20
    proposals_max: int = 65536  # of one group, without their outcome
    reads_max: int = 65536  # of one group, waiting
    request_ticks: int = 100  # then a proposal ends as not done or unknown, a read as failed
    quiet_ticks: int = 20  # a group without work for so long sends no heartbeats
    snapshot_log_bytes: int = 16 << 20  # a group takes a snapshot when its log has grown by so much
    snapshot_chunk_bytes: int = 128 << 10  # of one frame: 10 ms of a link of 100 Mbit/s
    snapshot_window: int = 4  # chunks on their way, not acknowledged
    snapshots_sending_max: int = 4  # at once, all groups
    snapshots_receiving_max: int = 4
    snapshot_ticks: int = 200  # without progress, then it is given up
    frame_bytes_max: int = 512 << 10  # appends to one node that leave in one frame; one append may be larger
    campaign_ms_min: int = 10  # when the leader's process is known to be gone
    campaign_ms_max: int = 60
    campaigns: int = 4  # tries in a row, then the election time-out counts again
    catch_up_entries_max: int = 1024  # a learner that lacks no more may be promoted
    spread_ticks: int = 40  # how often a node looks whether it leads too many groups

    def __attrs_post_init__(self) -> None:
        """Raises ValueError for what the core would refuse, or what would never end."""
        if not 0 < self.heartbeat_ticks < self.election_ticks:
            raise ValueError("heartbeat_ticks must be positive and less than election_ticks")
        if self.inflight_bytes_max < self.message_bytes_max:
            raise ValueError("inflight_bytes_max is less than message_bytes_max")
        if not 0 < self.campaign_ms_min < self.campaign_ms_max:
            raise ValueError("campaign_ms_min must be positive and less than campaign_ms_max")


def options_for(profile: str, **limits: int) -> GroupOptions:
    """The options of ``lan`` or ``wan``, with other ``limits``."""
    timing = PROFILES[profile]
    return GroupOptions(
        tick_s=timing["tick_s"],
        heartbeat_ticks=int(timing["heartbeat_ticks"]),
        election_ticks=int(timing["election_ticks"]),
        **limits,
    )
