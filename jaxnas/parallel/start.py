"""How the processes of a run find each other, and part."""

import os
import signal
import sys
import threading
from collections.abc import Mapping

import jax
from absl import logging

from jaxnas.parallel.watch import Watch

_HEARTBEAT_TIMEOUT_S = 30  # after which JAX takes a process that it does not hear of for dead
_JOIN_S = 300  # the processes of a cluster's job begin minutes apart
_watch: Watch | None = None


def start(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the processes of this run; does nothing where the run is this process alone.

    To be called before anything else of JAX. What is not given is taken from the cluster's
    environment: Slurm, Open MPI, Cloud TPU or Kubernetes.

    Args:
      coordinator: host and port of process 0, which listens there.
      processes: how many there are; None is as many as the cluster says it started together.
      process: which of them this is, from 0.

    Raises:
      ValueError: these do not go together, or not with what the cluster says, or are too few.
      RuntimeError: the others cannot be reached, or are not as many.
    """
    started = _started_together(os.environ)
    if processes is None:
        if coordinator is not None or process is not None:
            raise ValueError(
                "--coordinator and --process are of a run of several processes: give "
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
    # JAX by itself aborts, without saying what it waited for.
    in_vain = threading.Timer(_JOIN_S, _give_up, (processes,))
    in_vain.daemon = True
    in_vain.start()
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
            f"--processes={processes}: the environment does not tell the rest "
            f"({error}); give --coordinator=HOST:PORT and --process"
        ) from error
    finally:
        in_vain.cancel()
    if jax.process_count() != processes:
        raise RuntimeError(f"{jax.process_count()} processes joined, and {processes} were to")
    # JAX has taken it for a service of its own, which orbax wants there and nobody else asks.
    signal.signal(signal.SIGTERM, on_sigterm)
    global _watch
    _watch = Watch(coordinator.rsplit(":", 1)[0] if coordinator else None)


def end() -> None:
    """Says goodbye: this process has done its part, and its end is no failure."""
    if _watch is not None:
        _watch.end()


def _give_up(processes: int) -> None:
    print(
        f"error: {processes} processes were to join this run, and not all did in {_JOIN_S} s; "
        f"see that each was started, with the same --processes, and reaches process 0 at "
        f"--coordinator",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _started_together(environment: Mapping[str, str]) -> int | None:
    """How many processes a cluster says it started as one; None where there is no word of it."""
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if name in environment:
            return int(environment[name])
    hosts = environment.get("TPU_WORKER_HOSTNAMES")
    return len(hosts.split(",")) if hosts else None
