"""The same run by processes, a Ray cluster, SLURM's jobs and torchrun ends with the same tables."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos import runs
from chaos.runs import UNITS, begun, finish, met, prepare, shards, tables, whole
from segtrans import bench
from segtrans.config import make_config, read_config
from segtrans.errors import SegtransError

PYTHONPATH = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
"""With which processes elsewhere find the toys."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("undisturbed"))
    whole(folder)
    return folder


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray on this machine, as two machines with a processor each beside one that does no work."""
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    # By default a machine counts as lost after most of a minute.
    health = {"health_check_period_ms": 1000, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": health}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


def test_ray_ends_complete_though_a_machine_is_lost(undisturbed: Path, tmp_path: Path, cluster: Any) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    folder = prepare(tmp_path / "run")
    changes = {"engine": "ray", "address": cluster.address}
    process = runs.context.Process(target=runs.shared, args=(folder, 2), kwargs=changes)
    process.start()
    assert process.pid not in met(folder, 2)
    before = begun(folder, 3 + 9)
    cluster.remove_node(nodes[0], allow_graceful=False)
    assert finish(process) == 0
    assert before < 3 + UNITS * 3, "the machine was lost too late to matter"
    assert len(shards(folder)) == 3 + UNITS * 3
    assert tables(folder) == tables(undisturbed)


def test_ray_stops_with_the_run(undisturbed: Path, tmp_path: Path, cluster: Any) -> None:
    cluster.add_node(num_cpus=1)
    folder = prepare(tmp_path / "run")
    changes = {"engine": "ray", "address": cluster.address}
    process = runs.context.Process(target=runs.shared, args=(folder, 1), kwargs=changes)
    process.start()
    begun(folder)
    os.kill(process.pid or 0, signal.SIGTERM)
    assert finish(process) == 130
    kept = shards(folder)
    assert 8 <= len(kept) < 3 + UNITS * 3
    assert (len(kept) - 3) % 3 == 0, "no unit is half done"
    whole(folder)
    assert kept.items() <= shards(folder).items()
    assert tables(folder) == tables(undisturbed)


def test_jobs_do_the_work(undisturbed: Path, tmp_path: Path) -> None:
    """Without SLURM submitit starts them here."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    folder = prepare(tmp_path / "run")
    changes = {"engine": "slurm", "slurm": {"timeout_min": 5}}
    process = runs.context.Process(target=runs.shared, args=(folder, 2), kwargs=changes)
    process.start()
    assert finish(process) == 0
    assert process.pid not in runs.signed(folder / "book")
    assert len(shards(folder)) == 3 + UNITS * 3
    assert tables(folder) == tables(undisturbed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "ray", "address": "127.0.0.1:1"}, "no Ray cluster at '127.0.0.1:1'"),
        ({"engine": "slurm", "gpus": 0.5}, "gpus is 0.5; SLURM gives whole GPUs"),
        ({"engine": "slurm", "slurm": {"no_such": 1}}, "slurm is {'no_such': 1}"),
    ],
    ids=str,
)
def test_clusters_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    pytest.importorskip(str(changes["engine"]).replace("slurm", "submitit"), reason="the cluster extra is missing")
    monkeypatch.chdir(prepare(tmp_path / "run", device="cpu", **changes))
    models = {f"toy:{i}": runs.toy(f"toy:{i}") for i in range(3)}
    with pytest.raises(SegtransError, match=re.escape(message)):
        bench.run(make_config(read_config(Path("config.yaml"))), models=models, quiet=True)


def test_torchruns_processes_share_a_run(undisturbed: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "chaos.runs", str(folder)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": PYTHONPATH}, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert tables(folder) == tables(undisturbed)


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_workers_change_nothing(undisturbed: Path, tmp_path: Path, workers: int) -> None:
    folder = prepare(tmp_path / "run")
    process = runs.context.Process(target=runs.shared, args=(folder, workers))
    process.start()
    assert finish(process) == 0
    assert len(runs.signed(folder / "book")) >= min(workers, 3)
    assert tables(folder) == tables(undisturbed)


@pytest.mark.parametrize("changes", [{"slice": 1}, {"batch": 1}], ids=str)
def test_slices_and_batches_change_nothing(undisturbed: Path, tmp_path: Path, changes: dict[str, int]) -> None:
    folder = prepare(tmp_path / "run", **changes)
    whole(folder)
    assert len(shards(folder)) == (3 + UNITS * 3) * (1 + ("slice" in changes))
    assert tables(folder) == tables(undisturbed)
