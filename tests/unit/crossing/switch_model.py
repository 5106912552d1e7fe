"""The switch as a model small enough to look at every state it can reach.

What is modelled, each as one atomic step of one party, in every order:

    proxies    two, each with a belief and one write: open it, commit it, or be refused and learn
    owners     take the lease, recover, converge a pass, lock, drain, fence, decide, follow; any
               of them may fail, stall for ever, wake up much later, or die
    commits    of an owner are *in flight* between sending and landing; its owner may lose
               patience or die meanwhile, and the commit may land all the same

`machine.read`, which decides what an owner does after a crash, is the real one. What
PostgreSQL and the engine guarantee is a set of guards; taking one out must break a law,
or the guard is not needed (or the model too coarse to see why).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from proxy.crossing.machine import Situation, read
from proxy.ledger.state import State
from proxy.routing.policy import Side

LEASES_MAX = 3
EPOCH_MAX = 3
_SIDES = (Side.OLD, Side.NEW)


class Guard(StrEnum):
    """What keeps the laws; each can be taken out."""

    FENCE = "a ledger refuses entries on the side that is not the authority"
    DRAIN = "the ledger's lock waits for open writes and keeps out new ones"
    LEASE = "every commit of an owner checks the lease and holds it until it has landed"
    LOCKED_READING = "an owner reads the state only when no commit on it is in flight"
    FENCE_FIRST = "the source resigns before the target reigns"
    SAME_SNAPSHOT = "a pass clears only the entries that its snapshot saw"
    NEW_LEASE = "an owner that does not know what became of a pass takes the lease anew"


class Step(StrEnum):
    """What an owner does next."""

    READ = "read"
    IDLE = "idle"
    APPLY = "apply a pass"
    CLEAR = "clear entries"
    DRAIN = "drain"  # holds the ledger's lock
    FENCE = "fence"  # holds the ledger's lock
    DECIDE = "decide"
    TAKE_BACK = "take back"
    FOLLOW = "follow"
    WAIT = "wait"  # for its commit in flight


class Cluster(NamedTuple):
    """One side's tables and its state; a row is the number of the write that made it."""

    is_authority: bool
    epoch: int
    note: tuple[Side, int] | None = None
    rows: frozenset[int] = frozenset()
    ledger: frozenset[int] = frozenset()

    def state(self) -> State:
        """Return it as the engine reads it."""
        note = None if self.note is None else {"to": self.note[0].value, "epoch": self.note[1]}
        return State(self.is_authority, self.epoch, None, note)


class Owner(NamedTuple):
    """An engine: the epoch of its lease, its next step, and where it believes to be."""

    lease: int
    step: Step = Step.READ
    authority: Side = Side.OLD
    epoch: int = 0
    target: Side = Side.OLD  # of the switch under way
    rows: frozenset[int] = frozenset()  # of a pass: what its snapshot saw
    entries: frozenset[int] = frozenset()
    after: Step = Step.READ  # what follows the commit it waits for


class Commit(NamedTuple):
    """A transaction whose COMMIT was sent: of a pass if it has rows, else of the state."""

    lease: int
    side: Side
    rows: frozenset[int] | None = None
    makes_authority: bool = False
    epoch: int | None = None  # None: unchanged
    note: tuple[Side, int] | None = None
    is_fence: bool = False  # holds the ledger's lock, and clears the ledger


class Proxy(NamedTuple):
    """A proxy with one write: not begun (None), open at a side, or acknowledged (True)."""

    belief: Side = Side.OLD
    write: Side | bool | None = None


class World(NamedTuple):
    """Everything at one instant."""

    old: Cluster
    new: Cluster
    lease: int
    owners: frozenset[Owner]
    commits: frozenset[Commit]
    proxies: tuple[Proxy, Proxy]

    def side(self, side: Side) -> Cluster:
        """Return one cluster."""
        return self.old if side is Side.OLD else self.new

    def with_side(self, side: Side, cluster: Cluster) -> World:
        """Return the world with one cluster changed."""
        return self._replace(old=cluster) if side is Side.OLD else self._replace(new=cluster)

    def acknowledged(self) -> frozenset[int]:
        """Return the writes that a client knows to be committed."""
        return frozenset(number for number, proxy in enumerate(self.proxies) if proxy.write is True)

    def authorities(self) -> list[Side]:
        """Return the sides whose ledger accepts entries."""
        return [side for side in _SIDES if self.side(side).is_authority]


BEGINNING = World(
    old=Cluster(True, 1), new=Cluster(False, 1), lease=0, owners=frozenset(), commits=frozenset(),
    proxies=(Proxy(), Proxy()),
)  # fmt: skip


class Model:
    """The steps that are possible, with some guards taken out."""

    def __init__(self, without: Guard | None = None) -> None:
        self._without = without

    def _has(self, guard: Guard) -> bool:
        return guard is not self._without

    def successors(self, world: World) -> Iterator[World]:
        """Yield every world that one step of one party leads to."""
        yield from self._proxies(world)
        yield from self._takeovers(world)
        yield from self._commits(world)
        for owner in world.owners:
            rest = world._replace(owners=world.owners - {owner})
            yield rest  # it dies; what it locked is free, what it sent may still land
            for successor, landed in self._owner(rest, owner):
                yield landed._replace(owners=landed.owners | {successor})

    # Proxies.

    def _proxies(self, world: World) -> Iterator[World]:
        for number, proxy in enumerate(world.proxies):
            if proxy.write is None:
                yield from self._open(world, number, proxy)
            elif isinstance(proxy.write, Side):
                cluster = world.side(proxy.write)
                written = cluster._replace(rows=cluster.rows | {number}, ledger=cluster.ledger | {number})
                yield _with_proxy(world.with_side(proxy.write, written), number, proxy._replace(write=True))

    def _open(self, world: World, number: int, proxy: Proxy) -> Iterator[World]:
        if world.side(proxy.belief).is_authority or not self._has(Guard.FENCE):
            if not (self._has(Guard.DRAIN) and self._is_locked(world, proxy.belief)):
                yield _with_proxy(world, number, proxy._replace(write=proxy.belief))
            return
        for side in world.authorities():
            yield _with_proxy(world, number, proxy._replace(belief=side))

    def _is_locked(self, world: World, side: Side) -> bool:
        is_held = any(_holds_ledger(owner) and owner.target.other is side for owner in world.owners)
        return is_held or any(commit.side is side and commit.is_fence for commit in world.commits)

    # Owners.

    def _takeovers(self, world: World) -> Iterator[World]:
        if world.lease == LEASES_MAX or (world.commits and self._has(Guard.LEASE)):
            return
        # With the guard, the one before can do nothing any more but keep the ledger locked.
        before = {owner for owner in world.owners if _holds_ledger(owner) or not self._has(Guard.LEASE)}
        yield world._replace(lease=world.lease + 1, owners=frozenset({*before, Owner(world.lease + 1)}))

    def _commits(self, world: World) -> Iterator[World]:
        for commit in world.commits:
            rest = world._replace(commits=world.commits - {commit})
            waiting = [
                owner for owner in world.owners if owner.step is Step.WAIT and owner.lease == commit.lease
            ]
            landed = _landed(rest, commit)
            yield landed  # and its owner, if any, does not hear of it
            yield rest  # the connection broke first: rolled back
            for owner in waiting:
                yield landed._replace(
                    owners=landed.owners - {owner} | {owner._replace(step=owner.after, after=Step.READ)}
                )

    def _owner(self, world: World, owner: Owner) -> Iterator[tuple[Owner, World]]:
        if owner.step not in (Step.READ, Step.IDLE) and self._may_go_on(world, owner):
            yield Owner(owner.lease), world  # it fails, or loses patience, and looks where it is
        if not (self._has(Guard.LEASE) and owner.lease != world.lease):
            yield from self._advance(world, owner)

    def undisturbed(self, world: World, owner: Owner) -> list[tuple[Owner, World]]:
        """Return where an owner gets with a step that succeeds, its commit landing at once."""
        found = list(self._advance(world, owner))
        (after, sent) = found[-1]
        for commit in sent.commits:
            landed = _landed(sent._replace(commits=frozenset()), commit)
            return [(after._replace(step=after.after, after=Step.READ), landed)]
        return found

    def _advance(self, world: World, owner: Owner) -> Iterator[tuple[Owner, World]]:
        if owner.step is Step.READ:
            yield from self._read(world, owner)
        elif owner.step is Step.IDLE:
            yield from self._begin(world, owner)
        elif owner.step in (Step.APPLY, Step.CLEAR, Step.DRAIN):
            yield from self._converge(world, owner)
        else:
            yield from self._move(world, owner)

    def _may_go_on(self, world: World, owner: Owner) -> bool:
        """Return whether an owner that failed may go on with the lease it has."""
        is_unknown = owner.step is Step.WAIT and owner.after in (Step.CLEAR, Step.FENCE)
        return not (is_unknown and self._has(Guard.NEW_LEASE))

    def _read(self, world: World, owner: Owner) -> Iterator[tuple[Owner, World]]:
        if self._has(Guard.LOCKED_READING) and any(commit.rows is None for commit in world.commits):
            return
        found = read(world.old.state(), world.new.state())
        if found.situation is Situation.IMPOSSIBLE:
            return
        step = {
            Situation.SETTLED: Step.IDLE, Situation.FOLLOW: Step.FOLLOW, Situation.FINISH: Step.DECIDE
        }[found.situation]  # fmt: skip
        yield Owner(owner.lease, step, found.authority, found.epoch, target=found.authority), world

    def _begin(self, world: World, owner: Owner) -> Iterator[tuple[Owner, World]]:
        source = world.side(owner.authority)
        if source.ledger:
            yield owner._replace(step=Step.APPLY, rows=source.rows, entries=source.ledger), world
        are_open = any(proxy.write is owner.authority for proxy in world.proxies)
        if owner.epoch < EPOCH_MAX and not (are_open and self._has(Guard.DRAIN)):
            yield owner._replace(step=Step.DRAIN, target=owner.authority.other), world

    def _converge(self, world: World, owner: Owner) -> Iterator[tuple[Owner, World]]:
        if owner.step is Step.CLEAR:
            cluster = world.side(owner.authority)
            left = cluster.ledger - owner.entries if self._has(Guard.SAME_SNAPSHOT) else frozenset()
            cleared = world.with_side(owner.authority, cluster._replace(ledger=left))
            yield Owner(owner.lease, Step.IDLE, owner.authority, owner.epoch, owner.target), cleared
            return
        rows = owner.rows if owner.step is Step.APPLY else world.side(owner.authority).rows
        after = Step.CLEAR if owner.step is Step.APPLY else Step.FENCE
        if not self._has(Guard.FENCE_FIRST) and owner.step is Step.DRAIN:
            after = Step.DECIDE
        pass_ = Commit(owner.lease, owner.authority.other, rows)
        yield owner._replace(step=Step.WAIT, after=after), world._replace(commits=world.commits | {pass_})

    def _move(self, world: World, owner: Owner) -> Iterator[tuple[Owner, World]]:
        """Send the commit of a step; with the wrong order the decision comes before the fence."""
        source, target, epoch = owner.target.other, owner.target, owner.epoch
        is_finishing = owner.authority is owner.target
        to_epoch = epoch if is_finishing else epoch + 1
        is_wrong_way = not self._has(Guard.FENCE_FIRST)
        if owner.step is Step.FENCE:
            commit = Commit(owner.lease, source, note=(target, to_epoch), is_fence=True)
            after = Step.FOLLOW if is_wrong_way else Step.DECIDE
        elif owner.step is Step.DECIDE:
            if not is_finishing and not is_wrong_way:
                yield owner._replace(step=Step.TAKE_BACK), world
            commit = Commit(owner.lease, target, makes_authority=True, epoch=to_epoch)
            after = Step.FENCE if is_wrong_way and not is_finishing else Step.FOLLOW
        elif owner.step is Step.TAKE_BACK:
            commit = Commit(owner.lease, source, makes_authority=True, epoch=to_epoch)
            after = Step.READ
        elif owner.step is Step.FOLLOW:
            if world.side(source).is_authority:
                return
            commit = Commit(owner.lease, source, epoch=to_epoch)
            after = Step.READ
        else:
            return
        yield owner._replace(step=Step.WAIT, after=after), world._replace(commits=world.commits | {commit})


def _holds_ledger(owner: Owner) -> bool:
    waits_for_drain = owner.step is Step.WAIT and owner.after is Step.FENCE
    return owner.step in (Step.DRAIN, Step.FENCE) or waits_for_drain


def _with_proxy(world: World, number: int, proxy: Proxy) -> World:
    proxies = (proxy, world.proxies[1]) if number == 0 else (world.proxies[0], proxy)
    return world._replace(proxies=proxies)


def _landed(world: World, commit: Commit) -> World:
    cluster = world.side(commit.side)
    if commit.rows is not None:
        return world.with_side(commit.side, cluster._replace(rows=commit.rows))
    changed = cluster._replace(
        is_authority=commit.makes_authority,
        epoch=cluster.epoch if commit.epoch is None else commit.epoch,
        note=commit.note,
        ledger=frozenset() if commit.is_fence else cluster.ledger,
    )
    return world.with_side(commit.side, changed)


def broken_law(world: World) -> str | None:
    """Return the law that a world breaks, if any."""
    authorities = world.authorities()
    if len(authorities) > 1:
        return "two authorities"
    if read(world.old.state(), world.new.state()).situation is Situation.IMPOSSIBLE:
        return "nobody could tell who is the authority"
    for side in authorities:
        authority, mirror = world.side(side), world.side(side.other)
        if not world.acknowledged() <= authority.rows:
            return "an acknowledged write is gone"
        if not (authority.rows ^ mirror.rows) <= authority.ledger:
            return "the sides differ, and the ledger does not know"
    for owner in world.owners:
        if owner.lease == world.lease and owner.step is Step.IDLE and authorities != [owner.authority]:
            return "the engine works in the wrong direction"
    return None


def recoveries(model: Model, world: World) -> Iterator[World]:
    """Yield where a next owner that meets no trouble brings a world, whatever was in flight."""
    if world.commits:
        for commit in world.commits:
            rest = world._replace(commits=world.commits - {commit})
            yield from recoveries(model, rest)
            yield from recoveries(model, _landed(rest, commit))
        return
    owner = Owner(world.lease + 1)
    world = world._replace(lease=owner.lease, owners=frozenset())
    while owner.step is not Step.IDLE:
        (owner, world), *_ = model.undisturbed(world, owner)
    yield world


class Explored(NamedTuple):
    """What a search found: the worlds with their ways, or the first that breaks a law."""

    parents: dict[World, World | None]
    broken: tuple[str, list[World]] | None

    @property
    def count(self) -> int:
        """How many worlds were looked at."""
        return len(self.parents)


def explore(model: Model) -> Explored:
    """Look at every world that can be reached, breadth first; stop at the first broken law."""
    parents: dict[World, World | None] = {BEGINNING: None}
    waiting = deque([BEGINNING])
    while waiting:
        world = waiting.popleft()
        if law := broken_law(world):
            return Explored(parents, (law, _way(parents, world)))
        for successor in model.successors(world):
            if successor not in parents:
                parents[successor] = world
                waiting.append(successor)
    return Explored(parents, None)


def _way(parents: dict[World, World | None], world: World) -> list[World]:
    way = [world]
    while (before := parents[way[-1]]) is not None:
        way.append(before)
    return way[::-1]
