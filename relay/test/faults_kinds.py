"""The faults of a campaign, by name: each strikes, lasts until writes are acknowledged again, and is mended."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from relay.test.faults_cluster import FaultNode
from relay.test.faults_network import Network
from relay.test.faults_scene import Scene, Strace

LOSS_PERCENT: Final = 20
SLOW_US: Final = 200_000
"""Of each sync of a slow disk."""
SLOW_S: Final = 2.0
ROOM_BYTES: Final = 16 << 20
"""Beyond what a node has, on the small disk that fills up."""
BULK_BYTES: Final = 100_000
BULK_WINDOW: Final = 8
BULK_AHEAD: Final = 30
"""Changes; of a hundred kilobytes each a node's history has 83."""
BULK_TOTAL_BYTES: Final = 400 << 20
"""A segment of the log is made ahead; so much is written at most until a full disk is felt."""
STALLED_S: Final = 3.0
FINE_S: Final = 0.002
"""Between looks for the moment from which time is taken."""


@attrs.frozen
class Fault:
    """``needs``: network, strace or mount; without it rounds are skipped."""

    name: str
    run: Callable[[Scene], Awaitable[None]]
    needs: str = ""


async def _killed(scene: Scene, role: str) -> None:
    node = scene.victim(role)
    scene.strike(node.kill)
    await scene.hold()
    node.start()


async def _terminated(scene: Scene) -> None:
    """The orderly stop: leadership is handed over first."""
    node = scene.leader
    scene.strike(partial(node.signal, signal.SIGTERM))
    await scene.hold()
    status = await node.ended()
    if status != 0:
        scene.problems.append(f"node {node.node} was told to end, and did with status {status}")
        node.kill()
    node.start()


async def _silent(scene: Scene, role: str) -> None:
    node = scene.victim(role)
    scene.strike(partial(node.signal, signal.SIGSTOP))
    try:
        await scene.hold()
    finally:
        node.signal(signal.SIGCONT)


async def _all_killed(scene: Scene) -> None:
    def kill() -> None:
        for node in scene.cluster.nodes.values():
            node.signal(signal.SIGKILL)
        for node in scene.cluster.nodes.values():
            node.kill()

    scene.strike(kill)
    scene.cluster.start()
    await scene.hold(lasting_s=60.0)


async def _all_silent(scene: Scene) -> None:
    nodes = list(scene.cluster.nodes.values())

    def stop() -> None:
        for node in nodes:
            node.signal(signal.SIGSTOP)

    scene.strike(stop)
    await asyncio.sleep(scene.dice.uniform(0.5, 1.5))
    for node in nodes:
        node.signal(signal.SIGCONT)
    await scene.hold()


async def _cut(scene: Scene, role: str, ways: str) -> None:
    """``in``: the node hears nobody; ``out``: nobody hears it; ``both``."""
    network = _network(scene)
    node = scene.victim(role).node

    def cut() -> None:
        for other in scene.cluster.others(node):
            if ways != "out":
                network.cut(node, other.node)
            if ways != "in":
                network.cut(other.node, node)

    scene.strike(cut)
    try:
        await scene.hold()
    finally:
        network.mend()


async def _one_link(scene: Scene) -> None:
    """Leader and one follower do not hear each other, the third hears both."""
    network, leader, follower = _network(scene), scene.leader.node, scene.follower.node

    def cut() -> None:
        network.cut(leader, follower)
        network.cut(follower, leader)

    scene.strike(cut)
    try:
        await scene.hold()
    finally:
        network.mend()


async def _loss(scene: Scene) -> None:
    network = _network(scene)

    def lose() -> None:
        for node in scene.cluster.nodes:
            network.lose(node, LOSS_PERCENT)

    scene.strike(lose)
    try:
        await scene.hold(hold_s=SLOW_S)
    finally:
        network.mend()


def _network(scene: Scene) -> Network:
    assert scene.cluster.network is not None, "asked for where there are no namespaces"
    return scene.cluster.network


# --- disks ----------------------------------------------------------------------------------------------------------


async def _failing_sync(scene: Scene, role: str) -> None:
    """The process has to end by itself: what the kernel has dropped after a failed sync is not known."""
    node = scene.victim(role)
    strace = Strace(node, "error=EIO:when=1+")
    await strace.attach()
    ended = await scene.wait(lambda: not node.running, "the node went on after a failed sync", look_s=FINE_S)
    scene.strike(lambda: None)
    await scene.hold()
    await strace.detach()
    scene.injected += strace.injected
    if not strace.injected:
        scene.problems.append("no sync was made to fail")
    status = await node.ended() if ended else None
    if status is None or status <= 0:
        scene.problems.append(f"node {node.node} ended with status {status} after a failed sync")
        node.kill()
    node.start()


async def _slow_sync(scene: Scene, role: str) -> None:
    node = scene.victim(role)
    strace = Strace(node, f"delay_enter={SLOW_US}")
    await strace.attach()
    await scene.wait(lambda: strace.count() > 0, "no sync was made slow", look_s=FINE_S)
    scene.strike(lambda: None)
    await scene.hold(hold_s=SLOW_S)
    await strace.detach()
    scene.injected += strace.injected


async def _full(scene: Scene, role: str) -> None:
    """A small disk fills up to the last byte, until nothing more goes into the log; then there is room again."""
    node = scene.victim(role)
    await _to_small_disk(scene, node)
    await scene.cluster.leader()
    if role == "leader":  # it was, and handed over to be moved
        await scene.ask_leader(list(scene.cluster.nodes), "transfer", node.node)
    ballast = node.data / "ballast"

    def fill() -> None:
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
                file.flush()

    scene.strike(fill)
    felt = await _bulk_until_full(scene, node)
    if not felt:
        scene.problems.append(f"node {node.node} wrote on, though its disk is full")
    scene.strike(lambda: None)  # from here: the log takes nothing more
    await scene.hold()
    ballast.unlink()
    if not node.running:
        node.start()
    await scene.cluster.leader()
    await _from_small_disk(scene, node)


async def _bulk_until_full(scene: Scene, node: FaultNode) -> bool:
    """Write much until ``node`` lags behind, does not answer, or ended."""
    done = total = 0
    others = [each.node for each in scene.cluster.others(node.node)]

    async def one(number: int) -> None:
        nonlocal done, total
        total += BULK_BYTES
        if await scene.traffic.bulk(others[number % len(others)], number, BULK_BYTES):
            done += 1

    number, tasks, last, moved_s = 0, set[asyncio.Task[None]](), (-1, -1), asyncio.get_running_loop().time()
    while total < BULK_TOTAL_BYTES and node.running:
        # Never so far ahead that the history has gone before it is told: then nothing could be compared.
        while len(tasks) < BULK_WINDOW and scene.traffic.untold() < BULK_AHEAD:
            number += 1
            tasks.add(asyncio.create_task(one(number)))
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(FINE_S)
        now = asyncio.get_running_loop().time()
        if number % 32 and now - moved_s < STALLED_S / 2:
            continue
        status = await scene.cluster.status(node.node)
        at = (-1 if status is None else status["last"], done)
        if at[0] != last[0]:
            last, moved_s = at, now
        elif now - moved_s > STALLED_S:
            break
    full = total < BULK_TOTAL_BYTES
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return full


async def _to_small_disk(scene: Scene, node: FaultNode) -> None:
    aside = node.folder / "aside"
    await _stop(scene, node)
    node.data.rename(aside)
    node.data.mkdir()
    size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file()) + ROOM_BYTES
    await _command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(node.data))
    await asyncio.to_thread(shutil.copytree, aside, node.data, dirs_exist_ok=True)
    await asyncio.to_thread(shutil.rmtree, aside)
    node.start()


async def _from_small_disk(scene: Scene, node: FaultNode) -> None:
    aside = node.folder / "aside"
    await _stop(scene, node)
    await asyncio.to_thread(shutil.copytree, node.data, aside)
    await _command("umount", str(node.data))
    node.data.rmdir()
    aside.rename(node.data)
    node.start()


async def _command(*argv: str) -> None:
    await asyncio.to_thread(subprocess.run, argv, check=True)


async def _stop(scene: Scene, node: FaultNode) -> None:
    node.signal(signal.SIGTERM)
    if await node.ended() != 0:
        scene.problems.append(f"node {node.node} did not end as told")
        node.kill()


# --- data directories and files -------------------------------------------------------------------------------------


async def _erased(scene: Scene, role: str) -> None:
    """An emptied voter may not come back under its id: what it had acknowledged, and its votes, are gone."""
    node = scene.victim(role)
    scene.strike(node.kill)
    await scene.hold()
    await asyncio.to_thread(shutil.rmtree, node.data)
    node.data.mkdir()
    await scene.refuses(node, "came back with another data directory")
    await scene.replace(node)


async def _stale(scene: Scene) -> None:
    """A voter whose disk is an old copy of itself lacks what it had acknowledged since: as bad as an emptied one."""
    node, old = scene.follower, scene.follower.folder / "old"
    node.kill()
    await asyncio.to_thread(shutil.copytree, node.data, old)
    node.start()
    await scene.cluster.leader()
    await scene.before()
    await _caught_up(scene, node)
    scene.strike(node.kill)
    await scene.hold()
    await asyncio.to_thread(shutil.rmtree, node.data)
    old.rename(node.data)
    await scene.refuses(node, "older copy", "cannot go on")
    await scene.replace(node)


async def _caught_up(scene: Scene, node: FaultNode) -> None:
    leader = await scene.cluster.leader()
    status = await scene.cluster.status(leader)
    assert status is not None
    for _ in range(200):
        mine = await scene.cluster.status(node.node)
        if mine is not None and mine["last"] >= status["last"]:
            return
        await asyncio.sleep(0.02)
    scene.problems.append(f"node {node.node} does not catch up")


async def _wrong_file(scene: Scene) -> None:
    """A file of another cluster, another node or other voters: one line, and no start."""
    node = scene.follower
    scene.strike(node.kill)
    await scene.hold()
    cluster = node.config()["cluster"]
    other = max(scene.cluster.nodes) + 1
    peers = cluster["peers"]
    wrong: list[tuple[dict[str, Any], str]] = [  # Any: a configuration as JSON
        ({"name": "other"}, "belongs to cluster"),
        ({"node": other, "peers": [*peers, {"node": other, "address": "tcp:127.0.0.1:1"}]}, "belongs to node"),
        ({"peers": [*peers, {"node": other, "address": "tcp:127.0.0.1:1"}]}, "the log counts"),
        ({"peers": [each for each in peers if each["node"] != node.node]}, "peers"),
        ({"listen": "tcp:nowhere"}, "listen"),
    ]
    for change, words in wrong:
        node.change = {"cluster": change}
        await scene.refuses(node, words)
    node.change = {}
    node.start()


def _of_both(name: str, run: Callable[[Scene, str], Awaitable[None]], needs: str = "") -> list[Fault]:
    def of(role: str) -> Fault:
        return Fault(f"{name}-{role}", lambda scene: run(scene, role), needs)

    return [of("leader"), of("follower")]


FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        *_of_both("kill", _killed),
        *_of_both("stop", _silent),
        Fault("kill-all", _all_killed),
        Fault("stop-all", _all_silent),
        Fault("term-leader", _terminated),
        *_of_both("cut", partial(_cut, ways="both"), "network"),
        *_of_both("deaf", partial(_cut, ways="in"), "network"),
        *_of_both("mute", partial(_cut, ways="out"), "network"),
        Fault("cut-link", _one_link, "network"),
        Fault("loss", _loss, "network"),
        *_of_both("full", _full, "mount"),
        *_of_both("sync-fails", _failing_sync, "strace"),
        *_of_both("sync-slow", _slow_sync, "strace"),
        *_of_both("erased", _erased),
        Fault("stale-follower", _stale),
        Fault("wrong-file", _wrong_file),
    )
}
"""``leader``, ``follower``: who it was when the round began. ``deaf`` hears nobody, nobody hears ``mute``."""


def missing_strace(folder: Path) -> str:
    """Why system calls cannot be injected into; '' if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    argv = ["strace", "-q", "-o", str(folder / "probe"), "-e", "inject=fsync:error=EIO", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace: {done.stderr.strip() or done.returncode}"


def missing_mount(folder: Path) -> str:
    """Why no small disk can be mounted; '' if one can."""
    at = folder / "mount"
    at.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip() or "mount failed"
    subprocess.run(["umount", str(at)], check=True)
    return ""
