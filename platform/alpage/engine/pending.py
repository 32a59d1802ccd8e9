"""What is left of a step: given out in chains, taken back block by block."""

from collections import deque
from collections.abc import Iterable

from alpage.cube.ledger import NOTHING, BlockId, Fingerprint
from alpage.engine.work import Group, Work

Links = tuple[tuple[BlockId, Fingerprint], ...]
"""The blocks of a chain, each with the fingerprint that it will have."""


class Pending:
    """The blocks of a step that are not at the cluster. Its length is their number."""

    def __init__(self, work: Work, step: str) -> None:
        groups = work.groups(step)
        self._work = work
        self._groups = deque(groups)
        self._n_groups = len(groups)
        self._left = sum(len(group.blocks) for group in groups)

    def __len__(self) -> int:
        return self._left

    def take(self, *, threads: int, affordable: float) -> Links:
        """Return the next blocks to do by one worker: not more than there is money for.

        What is left when every thread has had as many chains as the others is given out block by
        block, so that all end at about the same time.
        """
        is_tail = len(self._groups) <= self._n_groups % threads
        group = self._groups.popleft()
        if group.last is not None and not is_tail and len(group.blocks) + 1 <= affordable:
            links = tuple((block, self._work.wanted(block)) for block in group.blocks)
            if last := self._last(group.last, links):
                self._left -= len(links)
                return (*links, last)
        first, *rest = group.apart()
        self._groups.extendleft(reversed(rest))
        self._left -= 1
        (block,) = first.blocks
        return ((block, self._work.wanted(block)),)

    def _last(self, block: BlockId, before: Links) -> tuple[BlockId, Fingerprint] | None:
        """The block that reads those before it, where there is something for it to do then."""
        given = dict(before)
        others = (one for one in self._work.inputs(block) if one not in given)
        # What is not in memory is read as it was committed.
        if not self._work.are_done(others):
            return None
        wanted = self._work.wanted(block, given)
        if wanted in (NOTHING, self._work.ledger.recorded(block)):
            return None
        return block, wanted

    def put_back(self, blocks: Iterable[BlockId]) -> None:
        """Take blocks of the step back: they come next, each alone."""
        groups = [Group((block,)) for block in blocks]
        self._groups.extendleft(reversed(groups))
        self._left += len(groups)
