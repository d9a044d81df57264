"""ONNX Runtime's Python package without its telemetry.

From version 1.29 on its import would start a thread that reports to Microsoft, and a database that
all processes of a user share (https://github.com/microsoft/onnxruntime/pull/27379). The variable
keeps a value that the user gives it.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

__all__ = ["onnxruntime"]
