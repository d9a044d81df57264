"""Start and end of search, train and study: joining processes, error lines, exit status."""

import os
import sys
import time
import traceback
from collections.abc import Callable

import jax
from absl import flags

from experiments.runs.delivery import ParityBroken
from experiments.runs.loop import NonFiniteLoss
from experiments.runs.malloc import keep_memory
from experiments.runs.preemption import Stopped, Terminated, terminate_like_control_c
from experiments.runs.step_compilation import keep_compiled_programs
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

_NAMING_S = 10.0  # time in which `parallel` names a process that died, and ends this one


def define_process_flags() -> None:
    """Defines the flags of a run of several processes; all other flags must be equal."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0 in a run of several processes; unset is the value from Slurm, "
        "Open MPI or the TPU pod.",
    )
    flags.DEFINE_integer(
        "processes",
        None,
        "Number of processes of the run; unset is the number that the cluster started, or 1.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "process",
        None,
        "Index of this process, from 0; unset is the value from the cluster.",
        lower_bound=0,
    )


def join_processes() -> None:
    """Joins the processes of this run, by the flags and the cluster's environment.

    Invalid flags end the program with status 2.
    """
    args = flags.FLAGS
    with command.usage_errors():
        parallel.start(args.coordinator, args.processes, args.process)


def run(work: Callable[[], int]) -> int:
    """Runs a program's work and returns its exit status.

    A known failure prints one line and returns 1. A stopped run prints how to resume it; it returns
    1 after Control-C and 0 after SIGTERM, the signal by which clusters preempt.
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
            parallel.end()  # all processes fail alike
        elif jax.process_count() > 1:
            time.sleep(_NAMING_S)  # another process's death may be the cause
    except (Stopped, KeyboardInterrupt) as stop:
        print(f"{str(stop) or 'stopped'}; run the same command again to resume", file=sys.stderr)
        if isinstance(stop, Stopped):
            parallel.end()  # the other processes stop at the same step
        preempted = isinstance(stop, Terminated) or getattr(stop, "preempted", False)
        status = 0 if preempted else command.FAILED
    except SystemExit as wrong_usage:
        if jax.process_count() == 1:
            raise
        assert isinstance(wrong_usage.code, int)
        status = wrong_usage.code
    except Exception:
        if jax.process_count() == 1:
            raise
        # Collectives fail if another process has died; `parallel` names that process.
        traceback.print_exc()
        time.sleep(_NAMING_S)
        status = command.FAILED
    # A normal exit would wait for threads that still compile, which cannot be interrupted, and for
    # other processes that wait for this one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
