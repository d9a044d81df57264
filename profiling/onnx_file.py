"""Reading ONNX files into networks for devices: weights included, named, with fixed shapes."""

import pathlib
from collections.abc import Iterable, Sequence

import onnx
from onnx import external_data_helper, helper

from profiling.errors import CompileError

MOST_BYTES = 2**31 - 1  # protobuf's limit for one message
_SHAPE_FLAG = "--shape"


def read_network(file: pathlib.Path, shape: Sequence[int] | None = None) -> bytes:
    """Reads the network in an ONNX file, including weights in other files.

    A dynamic batch becomes 1.

    Args:
      file: ONNX file.
      shape: shape of the network's only input; fixes dynamic sizes and replaces fixed ones.

    Returns:
      Bytes of the network as one ONNX file.

    Raises:
      ValueError: the file is not ONNX, or a device cannot take the network; one line that names the
        file, the reason and, where there is one, the remedy.
    """
    model = _parsed(file)
    _load_weights(model, file)
    if not model.graph.name:
        model.graph.name = file.stem
    _check_versions(model, file)
    _fix_shapes(model, file, shape)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)
    except Exception as error:  # the checkers share no base class below Exception
        raise ValueError(f"{file} is not a valid network: {one_line(error)}") from error
    _check_loops(model, file)
    return model.SerializeToString()


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Returns the inputs without the weights, which old files list among the inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _parsed(file: pathlib.Path) -> onnx.ModelProto:
    if not file.is_file():
        raise ValueError(f"{file} is not a file; give an ONNX file")
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"{file} has {file.stat().st_size / 1e9:.1f} GB; an ONNX file has 2 GB at "
            f"most, larger weights are stored in another file"
        )
    try:
        model = onnx.load_model_from_string(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except Exception as error:  # an error type of protobuf's own
        raise ValueError(f"{file} is not an ONNX file: {one_line(error)}") from error
    if not model.graph.node:
        raise ValueError(f"{file} is not an ONNX file of a network: it has no layers")
    return model


def _load_weights(model: onnx.ModelProto, file: pathlib.Path) -> None:
    """Loads weights that are stored in other files into the model."""
    locations = {
        entry.value
        for tensor in model.graph.initializer
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    missing = [name for name in sorted(locations) if not (file.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{file} stores its weights in {missing[0]}, which is not in the same folder; put "
            f"it there, or export with external_data=False"
        )
    weights_bytes = sum((file.parent / name).stat().st_size for name in locations)
    if weights_bytes + file.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"{file} has {weights_bytes / 1e9:.1f} GB of weights; a device takes networks of "
            f"at most 2 GB"
        )
    try:
        external_data_helper.load_external_data_for_model(model, str(file.parent))
    except Exception as error:  # the checker's for unsafe locations, ValueError for wrong lengths
        raise ValueError(
            f"{file}: its weights in other files cannot be read: {one_line(error)}"
        ) from error


def _check_versions(model: onnx.ModelProto, file: pathlib.Path) -> None:
    """Raises ValueError if the opset is too new; lowers the IR version to the newest known."""
    newest = onnx.defs.onnx_opset_version()
    opset = opset_of(model)
    if opset > newest:
        raise ValueError(
            f"{file} has opset {opset}, the newest supported is {newest}; export "
            f"it with opset_version={newest} or lower"
        )
    # The IR version is that of the file format, and this file could be parsed.
    model.ir_version = min(model.ir_version, onnx.IR_VERSION)


def opset_of(model: onnx.ModelProto) -> int:
    """Returns the version of ONNX's own operator set that a model uses; 1 if it declares none."""
    return max(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        default=1,
    )


def _fix_shapes(model: onnx.ModelProto, file: pathlib.Path, shape: Sequence[int] | None) -> None:
    """Gives every input a fixed shape; raises ValueError if that is not possible."""
    inputs = inputs_of(model)
    if shape is not None:
        if len(inputs) != 1:
            names = ", ".join(value.name for value in inputs) or "none"
            raise ValueError(
                f"{_SHAPE_FLAG}: {file} has {len(inputs)} inputs ({names}); it is for "
                f"a network with one input"
            )
        dims = inputs[0].type.tensor_type.shape.dim
        if inputs[0].type.tensor_type.HasField("shape") and len(dims) != len(shape):
            raise ValueError(
                f"{_SHAPE_FLAG}={_text(shape)}: input {inputs[0].name} of {file} is "
                f"{_shape_of(inputs[0])}; give {len(dims)} numbers"
            )
        _set_shape(inputs[0], shape)
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value and len(dims) > 1:
            dims[0].dim_value = 1
        if not value.type.tensor_type.HasField("shape") or any(dim.dim_value < 1 for dim in dims):
            remedy = (
                f"give its shape with {_SHAPE_FLAG}, such as {_SHAPE_FLAG}=1,3,224,224"
                if len(inputs) == 1
                else "fix its shape with `python -m onnxruntime.tools.make_dynamic_shape_fixed`"
            )
            raise ValueError(
                f"{file}: input {value.name} is {_shape_of(value)}, not a fixed shape; {remedy}"
            )
    # Stored shapes may be of other sizes and would contradict; inference computes them again.
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def _set_shape(value: onnx.ValueInfoProto, shape: Iterable[int]) -> None:
    tensor = value.type.tensor_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, list(shape)))


def _check_loops(model: onnx.ModelProto, file: pathlib.Path) -> None:
    """Raises ValueError if values determine which layers run or how often."""
    by_value = {value.name for value in inputs_of(model)}
    for node in model.graph.node:
        deciding = {"Loop": node.input[:2], "If": node.input[:1]}.get(node.op_type, ())
        if by_value & set(deciding) or node.op_type == "Loop" and _ends_by_value(node):
            raise ValueError(
                f"{file}: values determine what {node.op_type} {_name(node)} runs, and "
                f"so its latency; export the network without that"
            )
        # Shapes are fixed, so they do not depend on input values.
        if by_value & set(node.input) and node.op_type not in ("Shape", "Size"):
            by_value |= set(node.output)


def _ends_by_value(loop: onnx.NodeProto) -> bool:
    """Returns whether a loop's body computes the condition for another iteration."""
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    makers = {name: node for node in body.node for name in node.output}
    maker = makers.get(body.output[0].name)
    while maker is not None and maker.op_type == "Identity":
        maker = makers.get(maker.input[0])
    return maker is not None and maker.op_type != "Constant"


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _shape_of(value: onnx.ValueInfoProto) -> str:
    """Returns an input's shape as text, with the names of its dynamic sizes."""
    if not value.type.tensor_type.HasField("shape"):
        return "of any shape"
    dims = value.type.tensor_type.shape.dim
    return f"[{', '.join(str(dim.dim_value or dim.dim_param or '?') for dim in dims)}]"


def _text(shape: Iterable[int]) -> str:
    return ",".join(map(str, shape))


def one_line(error: Exception) -> str:
    """Returns the first line of a library's error message, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def onnx_bytes(file: pathlib.Path, device: str, shape: Sequence[int]) -> bytes:
    """Reads a file for a device that accepts ONNX only.

    Args:
      file: file to read.
      device: name of the device, for error messages.
      shape: shape of the network's only input; fixes dynamic sizes.

    Raises:
      CompileError: the file is not an ONNX file, or not a valid network.
    """
    if file.suffix != ".onnx":
        raise CompileError(f"{file}: {device} accepts only ONNX files; give the network's .onnx")
    try:
        return read_network(file, shape)
    except ValueError as error:
        raise CompileError(str(error)) from error
