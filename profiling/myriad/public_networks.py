"""ONNX models of four networks with public layer times on a Neural Compute Stick 2, and ResNet-18.

Inception v1 and ResNet-50 are those of TensorFlow-Slim (`nets/inception_v1.py`,
`nets/resnet_v1.py`, where the last unit of a block has the stride). Inception v3 and v4 are Caffe
models. Nodes have the names of the public counters' layers, so that stages match counters by name.
Weights are random, since no time depends on them. Batch norm is folded, as OpenVINO had folded it.
"""

import onnx

from profiling.myriad.network_builder import Builder


def inception_v1() -> tuple[onnx.ModelProto, int]:
    """Returns TensorFlow-Slim's Inception v1 at 224 px with 1001 classes, and its MACs."""
    net, scope = Builder(224), "InceptionV1/InceptionV1"
    x = net.conv(f"{scope}/Conv2d_1a_7x7/Conv2D", "data", 64, 7, 2)
    x = net.pool(f"{scope}/MaxPool_2a_3x3/MaxPool", x, "max", 3, 2)
    x = net.conv(f"{scope}/Conv2d_2b_1x1/Conv2D", x, 64)
    x = net.conv(f"{scope}/Conv2d_2c_3x3/Conv2D", x, 192, 3)
    x = net.pool(f"{scope}/MaxPool_3a_3x3/MaxPool", x, "max", 3, 2)
    pools = {"4b": ("MaxPool_4a_3x3", 3), "5b": ("MaxPool_5a_2x2", 2)}
    # Output channels: branch 0, branch 1 (two), branch 2 (two), the projection of branch 3.
    for block, widths in (
        ("3b", (64, 96, 128, 16, 32, 32)),
        ("3c", (128, 128, 192, 32, 96, 64)),
        ("4b", (192, 96, 208, 16, 48, 64)),
        ("4c", (160, 112, 224, 24, 64, 64)),
        ("4d", (128, 128, 256, 24, 64, 64)),
        ("4e", (112, 144, 288, 32, 64, 64)),
        ("4f", (256, 160, 320, 32, 128, 128)),
        ("5b", (256, 160, 320, 32, 128, 128)),
        ("5c", (384, 192, 384, 48, 128, 128)),
    ):
        if block in pools:
            name, size = pools[block]
            x = net.pool(f"{scope}/{name}/MaxPool", x, "max", size, 2)
        mixed = f"{scope}/Mixed_{block}"
        zero = net.conv(f"{mixed}/Branch_0/Conv2d_0a_1x1/Conv2D", x, widths[0])
        one = net.conv(f"{mixed}/Branch_1/Conv2d_0a_1x1/Conv2D", x, widths[1])
        one = net.conv(f"{mixed}/Branch_1/Conv2d_0b_3x3/Conv2D", one, widths[2], 3)
        two = net.conv(f"{mixed}/Branch_2/Conv2d_0a_1x1/Conv2D", x, widths[3])
        last = "Conv2d_0a_3x3" if block == "5b" else "Conv2d_0b_3x3"
        two = net.conv(f"{mixed}/Branch_2/{last}/Conv2D", two, widths[4], 3)
        three = net.pool(f"{mixed}/Branch_3/MaxPool_0a_3x3/MaxPool", x, "max", 3, 1)
        three = net.conv(f"{mixed}/Branch_3/Conv2d_0b_1x1/Conv2D", three, widths[5])
        x = net.concat(f"{mixed}/concat", zero, one, two, three)
    x = net.pool("InceptionV1/Logits/AvgPool_0a_7x7/AvgPool", x, "average", 7, 1, 0)
    x = net.classifier("InceptionV1/Logits/Conv2d_0c_1x1/Conv2D", x, 1001)
    return net.model(net.softmax("InceptionV1/Logits/Predictions/Softmax", x)), net.macs


def resnet_50() -> tuple[onnx.ModelProto, int]:
    """Returns TensorFlow-Slim's ResNet v1 50 at 224 px with 1000 classes, and its MACs."""
    net, scope = Builder(224), "resnet_v1_50"
    x = net.conv(f"{scope}/conv1/Conv2D", "data", 64, 7, 2, 3)
    x = net.pool(f"{scope}/pool1/MaxPool", x, "max", 3, 2)
    for block, (width, units) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
        for unit in range(1, units + 1):
            name = f"{scope}/block{block}/unit_{unit}/bottleneck_v1"
            stride = 2 if unit == units and block < 4 else 1
            if unit == 1:
                shortcut = net.conv(f"{name}/shortcut/Conv2D", x, 4 * width, relu=False)
            elif stride == 2:
                shortcut = net.pool(f"{name}/shortcut/MaxPool", x, "max", 1, 2, 0)
            else:
                shortcut = x
            y = net.conv(f"{name}/conv1/Conv2D", x, width)
            y = net.conv(f"{name}/conv2/Conv2D", y, width, 3, stride, 1)
            y = net.conv(f"{name}/conv3/Conv2D", y, 4 * width, relu=False)
            x = net.add_relu(f"{name}/add", f"{name}/Relu", shortcut, y)
    x = net.pool(f"{scope}/pool5/Pool", x, "average", 7, 1, 0)
    x = net.classifier(f"{scope}/logits/Conv2D", x, 1000)
    return net.model(net.softmax(f"{scope}/predictions/Softmax", x)), net.macs


def _factored(net: Builder, prefix: str, source: str, *steps: tuple[str, int]) -> str:
    """Adds a chain of convolutions; a step's name has its kernel: 7x1 is 7 high and 1 wide."""
    for name, channels in steps:
        height, width = (1, 1) if "reduce" in name else map(int, name.split("_")[0].split("x"))
        source = net.conv(f"{prefix}_{name}", source, channels, (height, width))
    return source


def inception_v3() -> tuple[onnx.ModelProto, int]:
    """Returns the Caffe model of Inception v3 at 299 px with 1000 classes, and its MACs."""
    net = Builder(299)
    x = net.conv("conv1_3x3_s2", "data", 32, 3, 2, 0)
    x = net.conv("conv2_3x3_s1", x, 32, 3, 1, 0)
    x = net.conv("conv3_3x3_s1", x, 64, 3, 1, 1)
    x = net.pool("pool1_3x3_s2", x, "max", 3, 2, 0)
    x = net.conv("conv4_3x3_reduce", x, 80)
    x = net.conv("conv4_3x3", x, 192, 3, 1, 0)
    x = net.pool("pool2_3x3_s2", x, "max", 3, 2, 0)
    for index, projected in enumerate((32, 64, 64), start=1):
        name = f"inception_a{index}"
        one = net.conv(f"{name}_1x1", x, 64)
        five = _factored(net, name, x, ("5x5_reduce", 48), ("5x5", 64))
        three = _factored(net, name, x, ("3x3_reduce", 64), ("3x3_1", 96), ("3x3_2", 96))
        pooled = net.conv(
            f"{name}_pool_proj", net.pool(f"{name}_pool", x, "average", 3, 1, 1), projected
        )
        x = net.concat(f"{name}_output", one, five, three, pooled)
    three = net.conv("reduction_a_3x3", x, 384, 3, 2, 0)
    twice = _factored(net, "reduction_a", x, ("3x3_2_reduce", 64), ("3x3_2", 96))
    twice = net.conv("reduction_a_3x3_3", twice, 96, 3, 2, 0)
    x = net.concat(
        "reduction_a_concat", three, twice, net.pool("reduction_a_pool", x, "max", 3, 2, 0)
    )
    for index, width in enumerate((128, 160, 160, 192), start=1):
        name = f"inception_b{index}"
        one = net.conv(f"{name}_1x1_2", x, 192)
        seven = _factored(net, name, x, ("1x7_reduce", width), ("1x7", width), ("7x1", 192))
        twice = _factored(
            net,
            name,
            x,
            ("7x1_reduce", width),
            ("7x1_2", width),
            ("1x7_2", width),
            ("7x1_3", width),
            ("1x7_3", 192),
        )
        pooled = net.conv(f"{name}_1x1", net.pool(f"{name}_pool_ave", x, "average", 3, 1, 1), 192)
        x = net.concat(f"{name}_concat", one, seven, twice, pooled)
    three = net.conv("reduction_b_3x3", net.conv("reduction_b_3x3_reduce", x, 192), 320, 3, 2, 0)
    seven = _factored(net, "reduction_b", x, ("1x7_reduce", 192), ("1x7", 192), ("7x1", 192))
    seven = net.conv("reduction_b_3x3_2", seven, 192, 3, 2, 0)
    x = net.concat(
        "reduction_b_concat", three, seven, net.pool("reduction_b_pool", x, "max", 3, 2, 0)
    )
    for index, kind in enumerate(("average", "max"), start=1):
        name = f"inception_c{index}"
        one = net.conv(f"{name}_1x1_2", x, 320)
        split = net.conv(f"{name}_1x3_reduce", x, 384)
        wide = [_factored(net, name, split, (step, 384)) for step in ("1x3", "3x1")]
        split = _factored(net, name, x, ("3x3_reduce", 448), ("3x3", 384))
        deep = [_factored(net, name, split, (step, 384)) for step in ("1x3_2", "3x1_2")]
        pooled = net.conv(f"{name}_1x1", net.pool(f"{name}_pool", x, kind, 3, 1, 1), 192)
        x = net.concat(f"{name}_concat", one, *wide, *deep, pooled)
    x = net.classifier("classifier", net.pool("pool_8x8_s1", x, "average", 8, 1, 0), 1000)
    return net.model(net.softmax("prob", x)), net.macs


def inception_v4() -> tuple[onnx.ModelProto, int]:
    """Returns the Caffe model of Inception v4 at 299 px with 1000 classes, and its MACs."""
    net = Builder(299)
    x = net.conv("conv1_3x3_s2", "data", 32, 3, 2, 0)
    x = net.conv("conv2_3x3_s1", x, 32, 3, 1, 0)
    x = net.conv("conv3_3x3_s1", x, 64, 3, 1, 1)
    x = net.concat(
        "inception_stem1",
        net.conv("inception_stem1_3x3_s2", x, 96, 3, 2, 0),
        net.pool("inception_stem1_pool", x, "max", 3, 2, 0),
    )
    three = net.conv(
        "inception_stem2_3x3", net.conv("inception_stem2_3x3_reduce", x, 64), 96, 3, 1, 0
    )
    seven = _factored(net, "inception_stem2", x, ("1x7_reduce", 64), ("1x7", 64), ("7x1", 64))
    x = net.concat("inception_stem2", three, net.conv("inception_stem2_3x3_2", seven, 96, 3, 1, 0))
    x = net.concat(
        "inception_stem3",
        net.conv("inception_stem3_3x3_s2", x, 192, 3, 2, 0),
        net.pool("inception_stem3_pool", x, "max", 3, 2, 0),
    )
    for index in range(1, 5):
        name = f"inception_a{index}"
        one = net.conv(f"{name}_1x1_2", x, 96)
        three = _factored(net, name, x, ("3x3_reduce", 64), ("3x3", 96))
        twice = _factored(net, name, x, ("3x3_2_reduce", 64), ("3x3_2", 96), ("3x3_3", 96))
        pooled = net.conv(f"{name}_1x1", net.pool(f"{name}_pool_ave", x, "average", 3, 1, 1), 96)
        x = net.concat(f"{name}_concat", one, three, twice, pooled)
    three = net.conv("reduction_a_3x3", x, 384, 3, 2, 0)
    twice = _factored(net, "reduction_a", x, ("3x3_2_reduce", 192), ("3x3_2", 224))
    twice = net.conv("reduction_a_3x3_3", twice, 256, 3, 2, 0)
    x = net.concat(
        "reduction_a_concat", three, twice, net.pool("reduction_a_pool", x, "max", 3, 2, 0)
    )
    for index in range(1, 8):
        name = f"inception_b{index}"
        one = net.conv(f"{name}_1x1_2", x, 384)
        seven = _factored(net, name, x, ("1x7_reduce", 192), ("1x7", 224), ("7x1", 256))
        twice = _factored(
            net,
            name,
            x,
            ("7x1_2_reduce", 192),
            ("7x1_2", 192),
            ("1x7_2", 224),
            ("7x1_3", 224),
            ("1x7_3", 256),
        )
        pooled = net.conv(f"{name}_1x1", net.pool(f"{name}_pool_ave", x, "average", 3, 1, 1), 128)
        x = net.concat(f"{name}_concat", one, seven, twice, pooled)
    three = net.conv("reduction_b_3x3", net.conv("reduction_b_3x3_reduce", x, 192), 192, 3, 2, 0)
    seven = _factored(net, "reduction_b", x, ("1x7_reduce", 256), ("1x7", 256), ("7x1", 320))
    seven = net.conv("reduction_b_3x3_2", seven, 320, 3, 2, 0)
    x = net.concat(
        "reduction_b_concat", three, seven, net.pool("reduction_b_pool", x, "max", 3, 2, 0)
    )
    for index in range(1, 4):
        name = f"inception_c{index}"
        one = net.conv(f"{name}_1x1_2", x, 256)
        split = net.conv(f"{name}_1x1_3", x, 384)
        wide = [_factored(net, name, split, (step, 256)) for step in ("1x3", "3x1")]
        split = net.conv(f"{name}_1x1_4", x, 384)
        split = _factored(net, name, split, ("3x1_2", 448), ("1x3_2", 512))
        deep = [_factored(net, name, split, (step, 256)) for step in ("1x3_3", "3x1_3")]
        pooled = net.conv(f"{name}_1x1", net.pool(f"{name}_pool_ave", x, "average", 3, 1, 1), 256)
        x = net.concat(f"{name}_concat", one, *wide, *deep, pooled)
    x = net.classifier("classifier", net.pool("pool_8x8_s1", x, "average", 8, 1, 0), 1000)
    return net.model(net.softmax("loss", x)), net.macs


def resnet_18() -> tuple[onnx.ModelProto, int]:
    """Returns torchvision's ResNet-18 at 224 px with 1000 classes, and its MACs.

    It has no softmax. Its layers have no public times.
    """
    net = Builder(224)
    x = net.pool("pool1", net.conv("conv1", "data", 64, 7, 2, 3), "max", 3, 2, 1)
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for unit in (1, 2):
            name = f"layer{stage}/{unit}"
            stride = 2 if unit == 1 and stage > 1 else 1
            shortcut = (
                net.conv(f"{name}/shortcut", x, width, 1, stride, 0, relu=False)
                if stride == 2
                else x
            )
            y = net.conv(f"{name}/conv1", x, width, 3, stride, 1)
            y = net.conv(f"{name}/conv2", y, width, 3, 1, 1, relu=False)
            x = net.add_relu(f"{name}/add", f"{name}/relu", shortcut, y)
    x = net.classifier("classifier", net.pool("pool5", x, "average", 7, 1, 0), 1000)
    return net.model(x), net.macs


def depthwise(width: int, height: int, channels: int, kernel: int) -> onnx.ModelProto:
    """Returns a network of one depthwise convolution with stride 1, named `depthwise`."""
    net = Builder(1)
    net.sizes["data"] = (channels, height, width)
    return net.model(net.conv("depthwise", "data", channels, kernel, relu=False, depthwise=True))


PUBLIC_NETWORKS = {
    "inception_v1": inception_v1,
    "inception_v3": inception_v3,
    "inception_v4": inception_v4,
    "resnet_50": resnet_50,
}
