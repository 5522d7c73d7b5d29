"""The queued jobs of each lane: push, remove, rank, and the best one that may be placed.

Knows only rank keys (`order.rank_key`) and signatures. Jobs with the same signature want the same
things, so when the first of them can't be placed none can: a whole class of jobs waits as one, and a
tick looks at heads of classes, never at all jobs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain, count
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK: Final = 1024
_MOST_WANTED: Final = 64


Traits = tuple[str, int, tuple[str, ...]]
"""Type, tier and labels."""
COMMON: Final[Traits] = ("task", 1, ())


def traits_of(type_: str, tier: int, labels: tuple[str, ...]) -> Traits | None:
    """None stands for the most common: plain tasks of normal tier."""
    traits = (type_, tier, labels)
    return None if traits == COMMON else traits


class Signature(NamedTuple):
    """What placing a job depends on beside its lane's slots."""

    interactive: bool = False
    group: str | None = None
    needs: tuple[tuple[str, int], ...] = ()
    quotas: tuple[str, ...] = ()  # the accounts that bound how many such jobs run
    traits: Traits | None = None  # of jobs that workers claim by them; see `traits_of`


PLAIN: Final = Signature()
signature_of = lru_cache(maxsize=4096)(Signature)
"""Where quotas hold, every queued job keeps its signature: equal ones are one object."""
_Head = tuple[int, int, Signature]  # key, a serial number so that signatures are never compared, signature
_Lacks = Callable[[Signature, int], str | None]


class RankList:
    """Sorted integers in blocks of about a thousand, with a Fenwick tree over the blocks' lengths.

    add, remove, rank and membership cost a few microseconds at a million entries.
    """

    def __init__(self) -> None:
        self._blocks: list[list[int]] = []
        self._maxima: list[int] = []
        self._tree: list[int] | None = None
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._blocks)

    def __contains__(self, key: int) -> bool:
        at = bisect_left(self._maxima, key)
        if at == len(self._maxima):
            return False
        block = self._blocks[at]
        return block[bisect_left(block, key)] == key

    def after(self, key: int) -> Iterator[int]:
        """The entries above `key`, ascending."""
        at = bisect_left(self._maxima, key + 1)
        for number, block in enumerate(self._blocks[at:]):
            yield from block[bisect_left(block, key + 1) :] if number == 0 else block

    def first(self) -> int | None:
        return self._blocks[0][0] if self._blocks else None

    def add(self, key: int) -> None:
        self._size += 1
        if not self._maxima or (key > self._maxima[-1] and len(self._blocks[-1]) >= _BLOCK):
            self._blocks.append([key])
            self._maxima.append(key)
            self._tree = None
            return
        at = min(bisect_left(self._maxima, key), len(self._maxima) - 1)
        block = self._blocks[at]
        insort(block, key)
        self._maxima[at] = block[-1]
        if len(block) > 2 * _BLOCK:
            self._blocks[at : at + 1] = [block[:_BLOCK], block[_BLOCK:]]
            self._maxima[at : at + 1] = [block[_BLOCK - 1], block[-1]]
            self._tree = None
        elif self._tree is not None:
            self._count(at, 1)

    def remove(self, key: int) -> None:
        """KeyError when it is not there."""
        at = bisect_left(self._maxima, key)
        block = self._blocks[at] if at < len(self._blocks) else []
        place = bisect_left(block, key)
        if place == len(block) or block[place] != key:
            raise KeyError(key)
        del block[place]
        self._size -= 1
        if not block:
            del self._blocks[at], self._maxima[at]
            self._tree = None
            return
        self._maxima[at] = block[-1]
        if self._tree is not None:
            self._count(at, -1)

    def rank(self, key: int) -> int:
        """How many entries are below `key`."""
        at = bisect_left(self._maxima, key)
        below = self._before(at)
        return below if at == len(self._blocks) else below + bisect_left(self._blocks[at], key)

    def load(self, keys: list[int]) -> None:
        """Replace all by `keys`, in any order."""
        keys.sort()
        self._blocks = [keys[at : at + _BLOCK] for at in range(0, len(keys), _BLOCK)]
        self._maxima = [block[-1] for block in self._blocks]
        self._tree = None
        self._size = len(keys)

    def _before(self, at: int) -> int:
        if self._tree is None:
            self._tree = tree = [0, *map(len, self._blocks)]
            for index in range(1, len(tree)):
                parent = index + (index & -index)
                if parent < len(tree):
                    tree[parent] += tree[index]
        total = 0
        while at > 0:
            total += self._tree[at]
            at &= at - 1
        return total

    def _count(self, at: int, by: int) -> None:
        assert self._tree is not None
        at += 1
        while at < len(self._tree):
            self._tree[at] += by
            at += at & -at


class _Class:
    """A heap of the keys of one signature; entries that left are dropped when they surface."""

    __slots__ = ("heap", "live")

    def __init__(self) -> None:
        self.heap: list[int] = []
        self.live = 0


class _Heads:
    """The heads of a lane's classes in order, but for the classes that lack something: those stand aside until `wake`.

    `head(signature)` is the first key of a class that there is. Classes that `takes` refuses never stand here.
    """

    def __init__(
        self, head: Callable[[Signature], int | None], takes: Callable[[Signature], bool] = lambda _: True
    ) -> None:
        self._head = head
        self._takes = takes
        self._heaps: tuple[list[_Head], list[_Head]] = ([], [])  # interactive ones apart
        self._offered: dict[Signature, int] = {}  # the key under which a class stands here
        self._serial = count()
        self._lacking: dict[str, set[Signature]] = {}

    def pushed(self, signature: Signature, key: int) -> None:
        """A class has one more key: as its first it may be offered, also where the class lacks something."""
        offered = self._offered.get(signature)
        if offered is None and not self._takes(signature):
            return
        if key < offered if offered is not None else self._head(signature) == key:
            self.offer(signature, key)

    def offer(self, signature: Signature, head: int) -> None:
        self._offered[signature] = head
        heap = self._heaps[signature.interactive]
        heappush(heap, (head, next(self._serial), signature))
        if len(heap) > 2 * len(self._offered) + 64:
            heap[:] = [
                (key, next(self._serial), other)
                for other, key in self._offered.items()
                if other.interactive == signature.interactive
            ]
            heapify(heap)

    def gone(self, signature: Signature) -> None:
        """A class is empty."""
        self._offered.pop(signature, None)

    def first(self, lacks: _Lacks, *, interactive_only: bool) -> int | None:
        heaps = self._heaps[1:] if interactive_only else self._heaps
        found = [key for heap in heaps if (key := self._first(heap, lacks)) is not None]
        return min(found) if found else None

    def wake(self, name: str) -> None:
        for signature in self._lacking.pop(name, ()):
            head = self._head(signature)
            if head is not None:
                self.offer(signature, head)

    def _first(self, heap: list[_Head], lacks: _Lacks) -> int | None:
        while heap:
            key, _, signature = heap[0]
            if self._offered.get(signature) != key:
                heappop(heap)
                continue
            head = self._head(signature)
            if head != key:
                heappop(heap)
                assert head is not None
                self.offer(signature, head)
            elif (missing := lacks(signature, key)) is not None:
                heappop(heap)
                del self._offered[signature]
                self._lacking.setdefault(missing, set()).add(signature)
            else:
                return key
        return None


class Lane:
    """The queued jobs of one agent."""

    def __init__(self) -> None:
        self.order = RankList()
        self._classes: dict[Signature, _Class] = {}
        self._signatures: dict[int, Signature] = {}  # PLAIN ones are left out: nearly all are
        self._placing = _Heads(self._head)
        self._standing = _Heads(self._head)
        self._wanted: dict[Hashable, _Heads] = {}  # the last one asked for last

    def close(self) -> None:
        """Another lane takes its place: no cycle is left behind, for the collector may look at this one no more."""
        self._placing = self._standing = _Heads(_nothing)
        self._wanted.clear()

    def push(self, key: int, signature: Signature) -> None:
        self.order.add(key)
        if signature != PLAIN:
            self._signatures[key] = signature
        group = self._classes.get(signature)
        if group is None:
            group = self._classes[signature] = _Class()
        heappush(group.heap, key)
        group.live += 1
        for view in self._views():
            view.pushed(signature, key)

    def load(self, entries: dict[Signature, list[int]]) -> None:
        """Fill an empty lane at start; quicker than pushing one by one."""
        for signature, keys in entries.items():
            if signature != PLAIN:
                self._signatures.update(dict.fromkeys(keys, signature))
            group = self._classes[signature] = _Class()
            group.heap = sorted(keys)  # which is a heap
            group.live = len(keys)
        self.order.load(list(chain.from_iterable(group.heap for group in self._classes.values())))
        for signature, group in self._classes.items():
            for view in self._views():
                view.pushed(signature, group.heap[0])

    def remove(self, key: int) -> None:
        self.order.remove(key)
        signature = self._signatures.pop(key, PLAIN)
        group = self._classes[signature]
        group.live -= 1
        if not group.live:
            del self._classes[signature]
            for view in self._views():
                view.gone(signature)
        elif len(group.heap) > 2 * group.live + 64:
            group.heap = self._entries(signature, group)

    def best(self, lacks: _Lacks, *, interactive_only: bool = False) -> int | None:
        """The first job in order that lacks nothing. `lacks(signature, key)` names what is missing, or None.

        A class that lacks something is not looked at again before `wake` with that name.
        """
        return self._placing.first(lacks, interactive_only=interactive_only)

    def first(self, shut: _Lacks, *, interactive_only: bool = False) -> int | None:
        """The first in order of those that are not shut out, whatever they lack; `shut` and `wake` as with `best`."""
        return self._standing.first(shut, interactive_only=interactive_only)

    def best_of(
        self, wanted: Hashable, takes: Callable[[Signature], bool], lacks: _Lacks, *, interactive_only: bool = False
    ) -> int | None:
        """As `best`, of the classes that `takes` accepts: always the same ones for the same `wanted`.

        Whoever asks again pays for what has changed since, but for more than `_MOST_WANTED` that ask by turns.
        """
        view = self._wanted.pop(wanted, None)
        if view is None:
            view = _Heads(self._head, takes)
            for signature in list(self._classes):
                if (head := self._head(signature)) is not None:
                    view.pushed(signature, head)
            while len(self._wanted) >= _MOST_WANTED:
                del self._wanted[next(iter(self._wanted))]
        self._wanted[wanted] = view
        return view.first(lacks, interactive_only=interactive_only)

    def wake(self, name: str) -> None:
        """Something named `name` became free: the classes that lacked it are looked at again."""
        for view in self._views():
            view.wake(name)

    def _views(self) -> tuple[_Heads, ...]:
        return (self._placing, self._standing, *self._wanted.values())

    def _head(self, signature: Signature) -> int | None:
        group = self._classes.get(signature)
        if group is None:
            return None
        while not self._lives(group.heap[0], signature):
            heappop(group.heap)
        return group.heap[0]

    def _entries(self, signature: Signature, group: _Class) -> list[int]:
        """The keys of one class that are there, sorted. A class that is most of its lane is read off the lane's order:
        to ask for each of a million entries whether it lives would stop the loop for a second.
        """
        signatures = self._signatures
        if not signatures:
            return list(self.order)
        if 4 * group.live > len(self.order):
            return [key for key in self.order if signatures.get(key, PLAIN) == signature]
        return sorted(entry for entry in set(group.heap) if self._lives(entry, signature))

    def _lives(self, key: int, signature: Signature) -> bool:
        return key in self.order and self._signatures.get(key, PLAIN) == signature


def _nothing(_: Signature) -> None:
    """The first key of a class of a lane that is closed."""
