"""Many processes as one run: started together, their devices one axis, the first one's word theirs.

Every process runs the same program with the same flags. A batch is divided along its first axis
among all devices; whatever else a step takes or gives is replicated on them, so that sums over the
batch, its statistics and the gradients are those of the whole batch, as in one process::

    parallel.start(coordinator, processes, process)     before anything else of JAX
    layout = parallel.layout()
    batch = layout.shard(next(batches))                of each process its shard
    known = parallel.from_process_0(read)               what one process alone may do or find out
    parallel.end()                                      or the others take this one for dead
"""

from jaxnas.parallel.agreement import (
    Process0Failed,
    ProcessesDiffer,
    any_across_processes,
    check_same,
    from_process_0,
    is_process_0,
)
from jaxnas.parallel.layout import Layout, layout
from jaxnas.parallel.start import end, start

__all__ = [
    "Process0Failed",
    "Layout",
    "ProcessesDiffer",
    "any_across_processes",
    "check_same",
    "end",
    "is_process_0",
    "layout",
    "from_process_0",
    "start",
]
