"""The workers of one cluster: as many as the blocks that are left keep busy, and no more."""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from distributed import Client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from alpage.engine.report import Pace
from alpage.engine.workers import workers_of
from alpage.kube.resource import made_for
from alpage.kube.trouble import Trouble, brief, tell
from alpage.study import ClusterChoice

logger = logging.getLogger(__name__)

LOOK_S = 2.0
SHORT_S = 4.0
"""How long blocks outnumber workers before more are asked for: short ones are done by then."""
KEEP_S = 15.0
"""How long an idle worker is kept: about what a new one costs to start."""


class Hands(Protocol):
    """What makes workers and takes them away."""

    def add(self, number: int) -> str:
        """Ask for one more worker; returns the name of what was asked for."""

    def drop(self, name: str) -> None:
        """Take back what was asked for, and with it its worker."""

    def troubles(self) -> list[Trouble]:
        """Return what keeps workers from running."""


@dataclass
class _Seen:
    """Workers at the scheduler: addresses by the name of what was asked for."""

    present: dict[str, str]
    busy: set[str]


class Crew:
    """Asks for workers and lets them go, from one thread at a time."""

    def __init__(self, hands: Hands, choice: ClusterChoice, pace: Pace) -> None:
        self._hands = hands
        self._pace = pace
        self._least, self._most = choice.min_workers or 0, choice.workers
        self._asked = 0
        self._members: list[str] = []
        self._leaving: dict[str, str] = {}
        self._short_since: float | None = None
        self._idle_since: dict[str, float] = {}

    @property
    def wanted(self) -> int:
        """How many workers the blocks that are left keep busy, within the study's bounds."""
        return min(max(self._pace.tasks, self._least), self._most)

    def __len__(self) -> int:
        return len(self._members)

    def begin(self) -> None:
        """Ask for the first workers: one at least."""
        self._grow(max(self.wanted, 1))

    @contextlib.contextmanager
    def following(self, client: Client) -> Iterator[None]:
        """Keep the crew as large as wanted, for as long as a block of code runs."""
        stop = threading.Event()
        # What is logged belongs to the flow's run, which Prefect knows by its context.
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._follow, client, stop), name="crew", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=10 * LOOK_S)

    def _follow(self, client: Client, stop: threading.Event) -> None:
        said = ""
        while not stop.is_set():
            try:
                self.look(client)
            except (ApiException, HTTPError, OSError) as error:
                told = f"workers stay as they are for now: {brief(error)}"
                if told != said and not stop.is_set():
                    logger.warning(told)
                said = told
            stop.wait(LOOK_S)

    def look(self, client: Client) -> None:
        """Compare what there is with what is wanted, and do one step towards it."""
        seen = self._see(client)
        now = time.monotonic()
        for name, address in list(self._leaving.items()):
            if address not in seen.busy:
                self._hands.drop(name)
                del self._leaving[name]
        short = self.wanted - len(self)
        self._short_since = (self._short_since or now) if short > 0 else None
        if self._short_since is not None and now - self._short_since >= SHORT_S:
            self._grow(self.wanted)
        if short < 0:
            self._shrink(client, seen, now)
        else:
            self._idle_since.clear()
        self._tell([name for name in self._members if name not in seen.present])

    def _see(self, client: Client) -> _Seen:
        known = workers_of(client).items()
        present = {made_for(str(told["name"])): address for address, told in known}
        if self.wanted >= len(self) and not self._leaving:
            return _Seen(present, set())
        busy = {address for address, keys in client.processing().items() if keys}
        return _Seen(present, busy)

    def _grow(self, size: int) -> None:
        while len(self) < size:
            self._members.append(self._hands.add(self._asked))
            self._asked += 1

    def _shrink(self, client: Client, seen: _Seen, now: float) -> None:
        for name in [name for name in reversed(self._members) if name not in seen.present]:
            if len(self) <= self.wanted:
                return
            self._hands.drop(name)
            self._members.remove(name)
        idle = [name for name in self._members if seen.present.get(name, "") not in seen.busy]
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle}
        going = [name for name in idle if now - self._idle_since[name] >= KEEP_S]
        going = going[: max(len(self) - self.wanted, 0)]
        if not going:
            return
        # They take no more blocks, and end when what they may have begun meanwhile is done.
        addresses = [seen.present[name] for name in going]
        retired = client.retire_workers(addresses, close_workers=False, remove=False)
        for name in [name for name in going if seen.present[name] in retired]:
            self._leaving[name] = seen.present[name]
            self._members.remove(name)

    def _tell(self, absent: list[str]) -> None:
        told = ""
        if absent and (reasons := tell(self._hands.troubles())):
            told = f"{len(absent)} of {len(self)} workers wait: {reasons}"
        if told and told != self._pace.waiting:
            logger.warning(told)
        self._pace.waiting = told
