"""Start and end of the processes of a run."""

import os
import signal
import sys
import threading
from collections.abc import Mapping

import jax
from absl import logging

from jaxnas.parallel.watch import Watch

_HEARTBEAT_TIMEOUT_S = 30  # after which JAX considers a silent process dead
_JOIN_S = 300  # the processes of a cluster's job start minutes apart
_watch: Watch | None = None


def start(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the processes of this run; does nothing if the run has only this process.

    Must be called before any other use of JAX. Arguments that are None are read from the cluster's
    environment: Slurm, Open MPI or Cloud TPU; on Kubernetes `processes` is needed, too.

    Args:
      coordinator: host and port on which process 0 listens.
      processes: number of processes; None uses the number that the cluster started together.
      process: index of this process, from 0.

    Raises:
      ValueError: the arguments contradict each other or the cluster, or are incomplete.
      RuntimeError: the other processes cannot be reached, or their number differs.
    """
    started = _started_together(os.environ)
    if processes is None:
        if coordinator is not None or process is not None:
            raise ValueError(
                "--coordinator and --process are for a run of several processes: give "
                "--processes with them"
            )
        processes = started or 1
    if started not in (None, processes):
        raise ValueError(
            f"--processes={processes}: the cluster started {started} together; give "
            f"that many, or leave it out"
        )
    if processes == 1:
        return
    if process is not None and not 0 <= process < processes:
        raise ValueError(
            f"--process={process} of --processes={processes}: give 0 to {processes - 1}"
        )
    logging.warning("waiting for all %d processes of this run, %d s at most", processes, _JOIN_S)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # JAX alone aborts, without naming what it waited for.
    deadline = threading.Timer(_JOIN_S, _give_up, (processes,))
    deadline.daemon = True
    deadline.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=2 * _JOIN_S,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"--processes={processes}: the environment does not provide the rest "
            f"({error}); give --coordinator=HOST:PORT and --process"
        ) from error
    finally:
        deadline.cancel()
    if jax.process_count() != processes:
        raise RuntimeError(f"{jax.process_count()} processes joined instead of {processes}")
    # JAX has taken the signal for its preemption service, which orbax requires but nothing queries.
    signal.signal(signal.SIGTERM, on_sigterm)
    global _watch
    _watch = Watch(coordinator.rsplit(":", 1)[0] if coordinator else None)


def end() -> None:
    """Announces to the other processes that the end of this one is no failure."""
    if _watch is not None:
        _watch.end()


def _give_up(processes: int) -> None:
    print(
        f"error: not all {processes} processes of this run joined within {_JOIN_S} s; make sure "
        f"that each was started with the same --processes and reaches process 0 at --coordinator",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _started_together(environment: Mapping[str, str]) -> int | None:
    """Returns the number of processes that a cluster started together, or None if unknown."""
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if name in environment:
            return int(environment[name])
    hosts = environment.get("TPU_WORKER_HOSTNAMES")
    return len(hosts.split(",")) if hosts else None
