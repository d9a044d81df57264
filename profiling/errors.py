"""Errors that devices raise."""


class DeviceUnavailable(RuntimeError):
    """A device, or the software that speaks to it, cannot be used here; says the remedy."""


class WorkerError(DeviceUnavailable):
    """A device's worker process crashed, hung or answered rubbish, also after its restarts."""


class CompileError(RuntimeError):
    """A device's compiler refuses a network.

    Attributes:
      layer: the layer that the compiler named, or None. The last layer of a network goes by the
        name of the network's output.
    """

    def __init__(self, message: str, layer: str | None = None):
        super().__init__(message)
        self.layer = layer
