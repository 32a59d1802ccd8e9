"""Workers follow the blocks that are left: real workers of Dask, as processes of this machine."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from alpage.engine.report import Pace
from alpage.engine.workers import workers_of
from alpage.kube import crew as module
from alpage.kube.crew import Crew
from alpage.kube.trouble import Trouble
from alpage.study import ClusterChoice

pytestmark = pytest.mark.slow


class Processes:
    """Workers as processes; one beyond `room` waits as a pod does that no node takes."""

    def __init__(self, address: str, folder: Path, room: int) -> None:
        self._address, self._folder, self._room = address, folder, room
        self.running: dict[str, subprocess.Popen[bytes] | None] = {}

    def add(self, number: int) -> str:
        name = f"c-{number}"
        is_full = sum(one is not None for one in self.running.values()) >= self._room
        self.running[name] = None if is_full else self._start(name)
        return name

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", "worker", self._address, "--no-nanny"]
        command += ["--nthreads", "1", "--name", f"{name}-worker-0", "--no-dashboard"]
        command += ["--local-directory", str(self._folder)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def drop(self, name: str) -> None:
        process = self.running.pop(name)
        if process is not None:
            process.terminate()
            process.wait(20)

    def troubles(self) -> list[Trouble]:
        return [Trouble("quota team allows pods=2", False)] * list(self.running.values()).count(
            None
        )


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def hands(client: Client, tmp_path: Path) -> Iterator[Callable[[int], Processes]]:
    made: list[Processes] = []

    def make(room: int) -> Processes:
        made.append(Processes(client.scheduler.address, tmp_path, room))
        return made[-1]

    yield make
    for one in made:
        for name in list(one.running):
            one.drop(name)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.1)


def _rest(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _at_work(client: Client) -> int:
    return sum(one["status"] == "running" for one in workers_of(client).values())


def test_workers_come_while_blocks_wait_and_go_when_idle_but_never_from_their_block(
    client: Client, hands: Callable[[int], Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("LOOK_S", 0.2), ("SHORT_S", 0.4), ("KEEP_S", 1.0)):
        monkeypatch.setattr(module, name, seconds)
    processes, pace = hands(9), Pace(1)
    crew = Crew(processes, ClusterChoice(kind="kubernetes", workers=3), pace)
    crew.begin()
    assert len(processes.running) == 1
    with crew.following(client):
        pace.tasks = 8
        _until(lambda: _at_work(client) == 3)
        long, short = client.submit(_rest, 6.0), client.map(_rest, [0.1, 0.2], pure=False)
        pace.tasks = 3
        client.gather(short)
        pace.tasks = 1
        _until(lambda: _at_work(client) == 1)
        assert not long.done()
        begun = [names for names in client.processing().values() if names]
        assert [list(names) for names in begun] == [[long.key]]
        assert long.result() == 6.0
        pace.tasks = 0
        time.sleep(2.0)
        there = len(processes.running), len(workers_of(client))
        assert there == (1, 1), "it holds what nobody has fetched for good"
        # Each try to let it go shows it as leaving for a moment.
        _until(lambda: _at_work(client) == 1)
        client.cancel([long, *short])
        _until(lambda: not processes.running)
        pace.tasks = 2
        _until(lambda: _at_work(client) == 2)


def test_those_that_wait_are_told_and_go_first(
    client: Client, hands: Callable[[int], Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.2)
    processes, pace = hands(2), Pace(3)
    crew = Crew(processes, ClusterChoice(kind="kubernetes", workers=3, min_workers=1), pace)
    crew.begin()
    with crew.following(client):
        _until(lambda: _at_work(client) == 2)
        _until(lambda: pace.waiting == "1 of 3 workers wait: quota team allows pods=2")
        pace.tasks = 2
        _until(lambda: len(processes.running) == 2)
        assert None not in processes.running.values()
        _until(lambda: pace.waiting == "")
