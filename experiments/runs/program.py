"""How search, train and study start and end: several processes as one, and the exit status."""

import os
import sys
import time
import traceback
from collections.abc import Callable

import jax
from absl import flags

from experiments.runs.compilation import keep_compiled_programs
from experiments.runs.delivery import ParityBroken
from experiments.runs.loop import NonFiniteLoss
from experiments.runs.memory import keep_memory
from experiments.runs.preemption import Stopped, Terminated, terminate_like_control_c
from jaxnas import parallel
from jaxnas.checkpoint import CheckpointUnreadable
from jaxnas.data import UnreadablePicture
from profiling import command
from profiling.database import StoreError
from profiling.errors import CompileError, DeviceUnavailable

_FAILURES = (
    DeviceUnavailable,
    CompileError,
    StoreError,
    CheckpointUnreadable,
    NonFiniteLoss,
    ParityBroken,
    UnreadablePicture,
    parallel.ProcessesDiffer,
    parallel.Process0Failed,
    OSError,
)

_NAMING_S = 10.0  # in which `parallel` names a process that has died, and ends this one


def define_process_flags() -> None:
    """Defines the flags of a run of several processes, which all get the same others."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, of a run of several "
        "processes; unset is what Slurm, Open MPI or a TPU pod tells.",
    )
    flags.DEFINE_integer(
        "processes",
        None,
        "How many processes the run has; unset is what the cluster says it started together, or 1.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "process",
        None,
        "Which of them this one is, from 0; unset is what the cluster tells.",
        lower_bound=0,
    )


def join_processes() -> None:
    """Joins the processes of this run, by the flags and the cluster's environment.

    What is wrong with them ends the program with status 2.
    """
    args = flags.FLAGS
    with command.usage_errors():
        parallel.start(args.coordinator, args.processes, args.process)


def run(work: Callable[[], int]) -> int:
    """Does a program's work and returns its exit status.

    A failure that is known is one line and status 1. A run that was stopped says how it goes on;
    its status is 1 after Control-C and 0 after SIGTERM, by which clusters preempt.
    """
    keep_memory()
    keep_compiled_programs()
    terminate_like_control_c()
    try:
        status = work()
        parallel.end()
        return status
    except _FAILURES as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = command.FAILED
        if isinstance(error, parallel.ProcessesDiffer | parallel.Process0Failed):
            parallel.end()  # all of them know
        elif jax.process_count() > 1:
            time.sleep(_NAMING_S)  # it may be but the consequence of another's death
    except (Stopped, KeyboardInterrupt) as stop:
        print(f"{str(stop) or 'stopped'}; run the same command again to go on", file=sys.stderr)
        if isinstance(stop, Stopped):
            parallel.end()  # the others stop at the same step
        preempted = isinstance(stop, Terminated) or getattr(stop, "preempted", False)
        status = 0 if preempted else command.FAILED
    except SystemExit as wrong_usage:
        if jax.process_count() == 1:
            raise
        status = wrong_usage.code
    except Exception:
        if jax.process_count() == 1:
            raise
        # Where another process has died, collectives fail: who died is said by `parallel`.
        traceback.print_exc()
        time.sleep(_NAMING_S)
        status = command.FAILED
    # Threads that still compile cannot be interrupted, and other processes may wait for this one
    # in vain: leaving as usual would wait for both.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
