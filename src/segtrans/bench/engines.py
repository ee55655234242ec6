"""Where a run's workers are. All of them do the same: whatever of the plan is not done and nobody is at.

Results meet in the run's folder, which is also how workers know of each other; so an engine only has to start them, to
wait, and to stop them. Scheduling, retries and lost machines are the business of Ray and SLURM.
"""

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from segtrans.bench.plan import Plan
from segtrans.bench.stopping import Stop, StopFile
from segtrans.config import RunConfig
from segtrans.errors import MissingError, SegtransError, UsageError, first_line, optional, reason
from segtrans.memory import keep_freed_memory

RETRIES = 10
"""How often a worker that was lost with its machine is started again, on another."""
POLL = 0.5
"""Seconds between looks at what workers elsewhere have done."""


@dataclass(frozen=True)
class Helper:
    """A worker as it travels to where it works; a call is all of its work, and returns what went wrong or nothing."""

    again: Callable[[RunConfig], Plan]
    config: RunConfig
    work: Callable[..., Any]
    stop: Stop | None = None
    first: float = 0.0
    threads: int = 1

    def __call__(self) -> str:
        torch.set_num_threads(self.threads)
        if isinstance(self.stop, StopFile):
            self.begun.touch()
        try:
            self.work(self.again(self.config), Progress(disable=True), self.stop, self.first)
        except (SegtransError, OSError) as error:
            return f"a worker stopped: {error}"
        return ""

    @property
    def begun(self) -> Path:
        """A file that tells that a worker elsewhere has begun."""
        assert isinstance(self.stop, StopFile), "workers here need no file to be told of"
        return self.stop.path.with_name(f"{self.stop.path.name}-{self.first:.4f}")

    def checkpoint(self) -> Any:
        """What submitit submits again where a job ran out of time or was preempted."""
        return import_module("submitit").helpers.DelayedSubmission(self)


def leads() -> bool:
    """Whether this process speaks for all, which of those that torchrun starts only the first does."""
    return os.environ.get("RANK", "0") == "0"


def turn() -> float:
    """Where in the list of work this process of torchrun's begins, as a share of it."""
    return int(os.environ.get("RANK", "0")) / int(os.environ.get("WORLD_SIZE", "1"))


Engine = Callable[[Plan, Helper, Stop, Progress], AbstractContextManager[None]]
"""Has helpers at work while, or before, the block does the plan, and sees to it that none outlives the block."""


@contextmanager
def local(plan: Plan, helper: Helper, stop: Stop, progress: Progress) -> Generator[None]:
    """Processes of this machine beside this one, which share its threads and are spread over its GPUs."""
    threads, context = torch.get_num_threads(), get_context("spawn")
    share = max(1, threads // plan.config.workers)
    processes: list[BaseProcess] = []
    try:
        # They inherit that they heed no signals; that there was one they learn from ``stop``.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for number in range(1, plan.config.workers):
                each = replace(
                    helper,
                    config=_on_gpu(plan, number),
                    stop=stop,
                    first=number / plan.config.workers,
                    threads=share,
                )
                process = context.Process(target=_in_process, args=(each,))
                process.start()
                processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        torch.set_num_threads(share)
        yield
        if stop.poll():
            for process in processes:
                process.join()
    finally:
        torch.set_num_threads(threads)
        codes = [process.exitcode for process in processes if process.exitcode]
        if codes:
            progress.console.print(f"workers ended early, with exit codes {codes}; others took over", soft_wrap=True)
        # By now everything is done, or was to stop at once.
        for process in processes:
            process.kill()
            process.join()


def _in_process(helper: Helper) -> None:
    keep_freed_memory()
    sys.exit(helper() or 0)


def _on_gpu(plan: Plan, number: int) -> RunConfig:
    """The configuration of this machine's worker of that number, which has the next GPU unless the run names one."""
    if plan.device.type != "cuda" or plan.config.device not in ("auto", "cuda"):
        return plan.config
    return plan.config.model_copy(update={"device": f"cuda:{number % torch.cuda.device_count()}"})


@contextmanager
def ray(plan: Plan, helper: Helper, stop: Stop, progress: Progress) -> Generator[None]:
    """Tasks of a Ray cluster, which starts one whose machine is lost again on another; this process waits for them."""
    library, config = _imported("ray"), plan.config
    connected = library.is_initialized()
    if not connected:
        # Ray's wish to warn of GPUs that a task without any may see concerns none of ours.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        _check_reachable(config.address)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            library.init(address=config.address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise MissingError(f"no Ray cluster at {config.address!r} ({first_line(error)})") from None
        finally:
            # Ray puts its own in the place of ours, which finishes the units in hand.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
    task = library.remote(Helper.__call__).options(num_cpus=config.cpus, num_gpus=config.gpus, max_retries=RETRIES)

    def results(tasks: list[Any]) -> list[str]:
        found: list[str] = []
        for each in tasks:
            try:
                found.append(library.get(each))
            except library.exceptions.RayError as error:
                found.append(f"a worker was lost: {first_line(error)}")
        return found

    left: list[Any] = []
    try:
        with _elsewhere(plan, helper) as (helpers, file):
            tasks = {task.remote(each): each for each in helpers}
            left = list(tasks)
            for _ in _looks(plan, stop, progress):
                done, left = library.wait(left, num_returns=len(left), timeout=0)
                _tell(progress, results(done))
                if not left:
                    break
            else:
                file.path.touch()
                # Those that found no room yet would never learn of it.
                for each in (each for each in left if not tasks[each].begun.exists()):
                    library.cancel(each)
                library.wait(left, num_returns=len(left))
                left = []
        yield
    finally:
        for each in left:
            library.cancel(each, force=True)
        if not connected:
            library.shutdown()


@contextmanager
def slurm(plan: Plan, helper: Helper, stop: Stop, progress: Progress) -> Generator[None]:
    """Jobs of a SLURM cluster, an array of them, by submitit; this process waits for them."""
    library, config = _imported("submitit"), plan.config
    if config.gpus != int(config.gpus):
        raise UsageError(f"gpus is {config.gpus:g}; SLURM gives whole GPUs, so allowed are whole numbers")
    executor = library.AutoExecutor(folder=plan.store.root / "slurm")
    try:
        executor.update_parameters(
            name="segtrans",
            cpus_per_task=config.cpus,
            **({"gpus_per_node": int(config.gpus)} if config.gpus else {}),
            **config.slurm,
        )
    except (NameError, TypeError, ValueError) as error:
        raise UsageError(f"slurm is {config.slurm}: {reason(error)}") from None

    def result(job: Any) -> str:
        try:
            return job.result()
        except (library.core.utils.FailedJobError, library.core.utils.UncompletedJobError):
            return f"job {job.job_id} failed, as {job.paths.stderr} tells"

    jobs: list[Any] = []
    try:
        with _elsewhere(plan, helper) as (helpers, file):
            try:
                with executor.batch():
                    submitted = [executor.submit(each) for each in helpers]
            except (library.core.utils.FailedJobError, OSError) as error:
                raise MissingError(f"SLURM took no jobs ({reason(error)})") from None
            jobs += submitted
            for _ in _looks(plan, stop, progress):
                if all(job.done() for job in jobs):
                    break
            else:
                file.path.touch()
                for job, each in zip(jobs, helpers, strict=True):
                    if not each.begun.exists():
                        job.cancel()
            _tell(progress, [result(job) for job in jobs])
        yield
    finally:
        for job in jobs:
            if not job.done():
                job.cancel()


ENGINES: dict[str, Engine] = {"local": local, "ray": ray, "slurm": slurm}


def _check_reachable(address: str | None) -> None:
    """MissingError where nobody answers at a HOST:PORT, for which Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise MissingError(f"no Ray cluster at {address!r} ({error})") from None


def _imported(library: str) -> Any:
    with optional("this engine", "cluster"):
        return import_module(library)


@contextmanager
def _elsewhere(plan: Plan, helper: Helper) -> Generator[tuple[list[Helper], StopFile]]:
    """As many helpers as the plan has workers, and the file that stops them."""
    workers = plan.config.workers
    file = StopFile(plan.store.root.resolve() / "units" / f"stop-{secrets.token_hex(4)}")
    file.path.parent.mkdir(parents=True, exist_ok=True)
    config = plan.config.model_copy(update={"out": plan.config.out.resolve()})
    try:
        each = replace(helper, config=config, stop=file, threads=config.cpus)
        yield [replace(each, first=i / workers) for i in range(workers)], file
    finally:
        for path in file.path.parent.glob(f"{file.path.name}*"):
            path.unlink(missing_ok=True)


def _looks(plan: Plan, stop: Stop, progress: Progress) -> Iterator[None]:
    """Now and then, until asked to stop; meanwhile the bar tells how much is done."""
    task, left = progress.add_task("units", total=len(plan.units)), plan.units
    while not stop.poll():
        yield
        left = [unit for unit in left if not plan.is_done(unit)]
        progress.update(task, completed=len(plan.units) - len(left))
        time.sleep(POLL)
    progress.remove_task(task)


def _tell(progress: Progress, reasons: list[str]) -> None:
    for said in filter(None, reasons):
        progress.console.print(f"{said}; what it left is done here", soft_wrap=True, markup=False, highlight=False)
