"""Many processes as one run: they start together, their devices form one axis, process 0 decides.

Every process runs the same program with the same flags. A batch is sharded along its first axis
across all devices. All other inputs and outputs of a step are replicated. Each device computes the
loss, its gradient and the statistics of its part, and a step uses their means. Those are of the
whole batch, as in one process, whose groups of batch normalization may hold other pictures::

    parallel.start(coordinator, processes, process)    before any other use of JAX
    layout = parallel.layout()
    batch = layout.shard(next(batches))                from each process's shard
    known = parallel.from_process_0(read)              work for one process only
    parallel.end()                                     else the others consider this one dead
"""

from jaxnas.parallel.collectives import (
    Process0Failed,
    ProcessesDiffer,
    any_across_processes,
    check_same,
    from_process_0,
    is_process_0,
)
from jaxnas.parallel.layout import Layout, layout
from jaxnas.parallel.parts import mean_over_parts
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
    "mean_over_parts",
    "from_process_0",
    "start",
]
