"""Functions of tensors as ONNX graphs: named inputs and outputs, any batch, nothing in them that is not computed with.

Needs onnx and onnxscript (the extra `export`).
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from oniris_core.common.errors import UserError

if TYPE_CHECKING:
    import onnx

OPSET = 20
LARGEST = 2**31 - 2**20
"""Bytes of an ONNX file: what holds it has lengths of 31 bits."""
_MOST_PARTS = 7
_FEW = 256  # numbers of a weight that stay as they are at half precision


def named(value: Any, name: str) -> list[tuple[str, Tensor]]:
    """The tensors of nested tuples, named by the fields and places in which they lie: `state.convs.0`."""
    if isinstance(value, Tensor):
        return [(name, value)]
    if value is None:
        return []
    fields = value._fields if hasattr(value, "_fields") else range(len(value))
    return [pair for field, part in zip(fields, value, strict=True) for pair in named(part, f"{name}.{field}")]


def rebuilt(like: Any, tensors: Iterator[Tensor]) -> Any:
    """Nested tuples made as `like`, with these tensors in the order of `named`."""
    if isinstance(like, Tensor):
        return next(tensors)
    if like is None:
        return None
    parts = [rebuilt(part, tensors) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


@dataclass(frozen=True)
class Part:
    """A function that becomes one file.

    Attributes:
        name: of the file.
        module: where its weights lie.
        function: of the arguments, in order; what it returns is named by `results`.
        arguments: examples, by name, for two rollouts: tensors, or nested tuples of them.
        results: the names of what it returns.
    """

    name: str
    module: nn.Module
    function: Callable[..., tuple[Any, ...]]
    arguments: dict[str, Any]
    results: tuple[str, ...]


class _Flat(nn.Module):
    """A part as a function of single tensors: what ONNX knows."""

    def __init__(self, part: Part):
        super().__init__()
        self.module, self.function, self.like = part.module, part.function, list(part.arguments.values())

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        return tuple(tensor for _, tensor in named(self.function(*(rebuilt(one, given) for one in self.like)), ""))


@torch.no_grad()
def graph(part: Part) -> bytes:
    """The ONNX file of a part; equal parts are equal bytes.

    Raises:
        UserError: something in it has no ONNX form, or it is too large for one file.
    """
    inputs = [pair for name, value in part.arguments.items() for pair in named(value, name)]
    made = zip(part.results, part.function(*part.arguments.values()), strict=True)
    outputs = [pair for name, value in made for pair in named(value, name)]
    weights = sum(buffer.numel() * buffer.element_size() for buffer in part.module.state_dict().values())
    if weights > LARGEST:
        raise UserError(
            f"{part.name}.onnx would have {weights / 1e9:.1f} GB, a file of this kind holds 2: train.channels is too large"
        )
    try:
        with _quiet():
            program = torch.onnx.export(
                _Flat(part).eval(), tuple(tensor for _, tensor in inputs), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=[name for name, _ in inputs], output_names=[name for name, _ in outputs],
                dynamic_shapes=(tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),),
            )  # fmt: skip
    except Exception as error:  # the exporter has many ways to say that it does not know an operator
        raise UserError(f"{part.name}.onnx cannot be made of this model: {str(error).splitlines()[0][:200]}") from error
    assert program is not None
    return _lean(program.model_proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def halved(file: bytes) -> bytes:
    """An ONNX file that stores its larger weights in half precision; they are still computed with in float32."""
    import onnx

    model = onnx.load_from_string(file)
    widened = []
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype.name == "float32" and values.ndim > 1 and values.size >= _FEW:
            narrow = f"{weight.name}h"
            widened.append(onnx.helper.make_node("Cast", [narrow], [weight.name], to=onnx.TensorProto.FLOAT))
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), narrow))
    nodes = [*widened, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _written(model)


def _lean(model: "onnx.ModelProto") -> bytes:
    """The model without inputs that nothing reads, and without the names, shapes and remarks that nothing needs."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    short = dict[str, str]()

    def called(name: str) -> str:
        return name if not name or name in kept else short.setdefault(name, f"{len(short)}")

    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    used = [value for value in graph.input if value.name in read]
    del graph.input[:], graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    graph.input.extend(used)
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for node in graph.node:
        node.name, node.doc_string = "", ""
        del node.metadata_props[:]
        node.input[:], node.output[:] = [called(name) for name in node.input], [called(name) for name in node.output]
    for weight in graph.initializer:
        weight.name, weight.doc_string = called(weight.name), ""
        del weight.metadata_props[:]
    _narrow_splits(graph)
    graph.name, graph.doc_string, model.doc_string = "oniris", "", ""
    model.producer_name, model.producer_version = "oniris", ""
    return _written(model)


def _narrow_splits(graph: "onnx.GraphProto") -> None:
    """Splits into many parts as a slice each: WebGPU has room for eight buffers at a time."""
    import numpy as np
    import onnx

    sizes = {weight.name: weight for weight in graph.initializer}
    nodes, places = list(graph.node), dict[int, str]()

    def place(value: int) -> str:
        if value not in places:
            places[value] = f"at{value}"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), places[value]))
        return places[value]

    del graph.node[:]
    for node in nodes:
        if (
            node.op_type != "Split"
            or len(node.output) <= _MOST_PARTS
            or len(node.input) < 2
            or node.input[1] not in sizes
        ):
            graph.node.append(node)
            continue
        axis, first = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0), 0
        for name, size in zip(node.output, onnx.numpy_helper.to_array(sizes[node.input[1]]).tolist(), strict=True):
            ends = [node.input[0], place(first), place(first + size), place(axis)]
            graph.node.append(onnx.helper.make_node("Slice", ends, [name]))
            first += size


def _written(model: "onnx.ModelProto") -> bytes:
    import onnx

    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
