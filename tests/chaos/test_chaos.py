"""Runs that are killed, stopped, starved of disk and doubled end complete, with the tables of an undisturbed run."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chaos import runs
from chaos.runs import UNITS, begun, count, finish, met, prepare, shards, start, tables, whole
from segtrans.bench.store import Shard, Store

KILLS = int(os.environ.get("SEGTRANS_KILLS", "20"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("undisturbed"))
    whole(folder)
    assert len(shards(folder)) == 3 + UNITS * 3
    return folder


def test_killed_at_any_moment_a_run_goes_on_where_it_was(undisturbed: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    kills = finished = 0
    while kills < KILLS:
        folder = prepare(tmp_path / f"{finished}")
        before = shards(folder)
        while kills < KILLS:
            process = start(folder)
            while kills % 2 and process.is_alive() and count(folder) == len(before):
                time.sleep(0.002)  # at work, where the other half of the kills may come while it still begins
            process.join(chance.uniform(0, 0.1 if kills % 2 else 0.4))
            process.kill()
            over = finish(process) == 0
            after = shards(folder)
            assert before.items() <= after.items(), "finished work was lost or done again"
            before = after
            if over:
                break
            kills += 1
        whole(folder)
        assert before.items() <= shards(folder).items()
        assert tables(folder) == tables(undisturbed)
        finished += 1


def test_timing_is_all_that_differs(undisturbed: Path, tmp_path: Path) -> None:
    """Of two undisturbed runs; so no more than that is left out of the comparisons."""
    folder = prepare(tmp_path / "again")
    whole(folder)
    assert tables(folder) == tables(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_finishes_the_unit(undisturbed: Path, tmp_path: Path, number: int) -> None:
    folder = prepare(tmp_path / "run")
    process = start(folder)
    begun(folder)
    os.kill(process.pid or 0, number)
    assert finish(process) == 130
    kept = shards(folder)
    assert 8 <= len(kept) < 3 + UNITS * 3
    assert (len(kept) - 3) % 3 == 0, "no unit is half done"
    assert "finishing the unit in hand" in (folder / "said.txt").read_text()
    assert '"interrupted": true' in (folder / "run" / "result.json").read_text()
    whole(folder)
    assert kept.items() <= shards(folder).items()
    assert tables(folder) == tables(undisturbed)


def test_a_second_request_stops_at_once(undisturbed: Path, tmp_path: Path) -> None:
    # Units of half a minute, so that the run cannot end in time by itself.
    folder = prepare(tmp_path / "long", iterations=100_000)
    process = start(folder)
    begun(folder, 3 + 3)
    time.sleep(0.2)
    os.kill(process.pid or 0, signal.SIGINT)
    time.sleep(0.2)
    assert process.is_alive()
    os.kill(process.pid or 0, signal.SIGINT)
    assert finish(process, 10) == 130
    assert "Traceback" not in (folder / "said.txt").read_text()
    assert not list((folder / "run").rglob(".*")), "nothing half written is left"
    shutil.copy(undisturbed / "config.yaml", folder)
    whole(folder)
    assert tables(folder) == tables(undisturbed)


def starved(folder: Path, limit: int) -> None:
    """A run in which no file may grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    runs.segtrans(folder)


def test_a_file_that_cannot_be_written_ends_the_run_with_a_sentence(undisturbed: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run")
    process = runs.context.Process(target=starved, args=(folder, 600))
    process.start()
    assert finish(process) == 1
    said = (folder / "said.txt").read_text().strip()
    assert said.startswith("error: run/")
    assert said.endswith(": File too large")
    assert len(said.splitlines()) == 1
    kept = shards(folder)
    whole(folder)
    assert kept.items() <= shards(folder).items()
    assert tables(folder) == tables(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[[str], None]:
    """Makes ``tmp_path/disk`` a file system of that size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> None:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.decode().strip()}")

    try:
        yield mount
    finally:
        subprocess.run(["umount", disk], capture_output=True, check=False)


def test_a_full_disk_ends_the_run_with_a_sentence(
    undisturbed: Path, tmp_path: Path, small_disk: Callable[[str], None]
) -> None:
    folder = prepare(tmp_path / "run")
    (folder / "run").symlink_to(tmp_path / "disk")
    small_disk("size=1m")
    (tmp_path / "disk" / "ballast").write_bytes(bytes(600_000))
    assert finish(start(folder)) == 1
    said = (folder / "said.txt").read_text().strip()
    assert said.startswith("error: run/")
    assert said.endswith(": No space left on device")
    kept = shards(folder)
    assert 3 < len(kept) < 3 + UNITS * 3
    small_disk("remount,size=8m")
    whole(folder)
    assert kept.items() <= shards(folder).items()
    assert tables(folder) == tables(undisturbed)


def test_two_runs_in_one_folder_end_complete_and_equal(undisturbed: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run")
    both = [start(folder), start(folder)]
    assert [finish(process) for process in both] == [0, 0]
    assert len(shards(folder)) == 3 + UNITS * 3
    assert tables(folder) == tables(undisturbed)


def gone(process: int, within: float = 60) -> bool:
    """Whether a process ends in time; one that nobody asks for its exit code any more has ended."""
    status, deadline = Path(f"/proc/{process}/stat"), time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_workers_make_the_same_tables_though_one_is_killed(undisturbed: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run")
    process = runs.context.Process(target=runs.shared, args=(folder, 3))
    process.start()
    helpers = met(folder, 3) - {process.pid}
    begun(folder, 3 + 5)
    os.kill(min(helpers), signal.SIGKILL)
    then = runs.signed(folder / "book")
    assert finish(process) == 0
    others = {process.pid or 0, max(helpers)}
    assert all(runs.signed(folder / "book")[other] > then[other] + 10 for other in others), "all share the work"
    assert len(shards(folder)) == 3 + UNITS * 3
    assert gone(max(helpers))
    assert tables(folder) == tables(undisturbed)


def test_workers_stop_with_the_run_and_end_with_it(undisturbed: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run")
    process = runs.context.Process(target=runs.shared, args=(folder, 2))
    process.start()
    (helper,) = met(folder, 2) - {process.pid}
    begun(folder)
    # Ctrl-C goes to all processes of a terminal.
    for each in (helper, process.pid or 0):
        os.kill(each, signal.SIGINT)
    assert finish(process) == 130
    assert gone(helper)
    kept = shards(folder)
    assert (len(kept) - 3) % 3 == 0, "nobody's unit is half done"
    (folder / "book").unlink()
    process = runs.context.Process(target=runs.shared, args=(folder, 2))
    process.start()
    (helper,) = met(folder, 2) - {process.pid}
    process.kill()
    process.join()
    assert gone(helper), "a worker outlives the run that started it"
    whole(folder)
    assert kept.items() <= shards(folder).items()
    assert tables(folder) == tables(undisturbed)


def test_one_flipped_byte_anywhere_is_found_and_mended(tmp_path: Path) -> None:
    store, chance = Store(tmp_path), random.Random(0)
    for i in range(100):
        shard = Shard({"n": torch.full((5,), i)}, {"images": [f"{i}"], "failures": []})
        store.write(f"{i}", "id", shard)
        path = store.shard_path(f"{i}")
        good = path.read_bytes()
        # Every third in the length, the names and the padding before the numbers; all places are equally likely else.
        place = chance.randrange(len(good) - 40 if i % 3 else len(good))
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << chance.randrange(8)]) + good[place + 1 :])
        assert store.read(f"{i}", "id") is None, f"byte {place} of {len(good)}"
        store.write(f"{i}", "id", shard)
        assert path.read_bytes() == good
