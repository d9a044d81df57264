"""Errors raised by devices."""


class DeviceUnavailable(RuntimeError):
    """A device, or the software that drives it, cannot be used; the message names the remedy."""


class WorkerError(DeviceUnavailable):
    """A worker process crashed, hung or sent invalid answers, even after it was restarted."""


class CompileError(RuntimeError):
    """A device's compiler refuses a network.

    Attributes:
      layer: name of the layer that the compiler refuses, or None if it names none. The compiler
        names the last layer of a network after the network's output.
    """

    def __init__(self, message: str, layer: str | None = None):
        super().__init__(message)
        self.layer = layer
