"""Reading a TensorRT network back: the only place of the interpreter that touches TensorRT objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.errors import InterpreterError
from engine.interpreter.step import Step
from engine.interpreter.weights import WeightReader
from engine.tensorrt import load

_CONVOLUTION = (
    "num_output_maps",
    "kernel_size_nd",
    "stride_nd",
    "pre_padding",
    "post_padding",
    "padding_mode",
    "num_groups",
    "dilation_nd",
    "kernel",
    "bias",
)

# Layer type -> (class of the bindings, attributes).  Attributes that a TensorRT does not have are left out.
_LAYERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ACTIVATION": ("IActivationLayer", ("type", "alpha", "beta")),
    "ASSERTION": ("IAssertionLayer", ("message",)),
    "CAST": ("ICastLayer", ("to_type",)),
    "CONCATENATION": ("IConcatenationLayer", ("axis",)),
    "CONDITION": ("IConditionLayer", ()),
    "CONDITIONAL_INPUT": ("IIfConditionalInputLayer", ()),
    "CONDITIONAL_OUTPUT": ("IIfConditionalOutputLayer", ()),
    "CONSTANT": ("IConstantLayer", ("weights", "shape")),
    "CONVOLUTION": ("IConvolutionLayer", _CONVOLUTION),
    "CUMULATIVE": ("ICumulativeLayer", ("op", "exclusive", "reverse")),
    "DECONVOLUTION": ("IDeconvolutionLayer", _CONVOLUTION),
    "DEQUANTIZE": ("IDequantizeLayer", ("axis", "block_shape", "to_type")),
    "DYNAMIC_QUANTIZE": (
        "IDynamicQuantizeLayer",
        ("axis", "block_size", "block_shape", "to_type", "scale_type"),
    ),
    "EINSUM": ("IEinsumLayer", ("equation",)),
    "ELEMENTWISE": ("IElementWiseLayer", ("op",)),
    "FILL": ("IFillLayer", ("shape", "operation", "alpha", "beta", "to_type")),
    "GATHER": ("IGatherLayer", ("axis", "num_elementwise_dims", "mode")),
    "GRID_SAMPLE": ("IGridSampleLayer", ("interpolation_mode", "align_corners", "sample_mode")),
    "IDENTITY": ("IIdentityLayer", ()),
    "ITERATOR": ("IIteratorLayer", ("axis", "reverse")),
    "KV_CACHE_UPDATE": ("IKVCacheUpdateLayer", ("cache_mode", "update_form")),
    "LOOP_OUTPUT": ("ILoopOutputLayer", ("axis", "kind")),
    "LRN": ("ILRNLayer", ("window_size", "alpha", "beta", "k")),
    "MATRIX_MULTIPLY": ("IMatrixMultiplyLayer", ("op0", "op1")),
    "MOE": (
        "IMoELayer",
        (
            "activation_type",
            "quantization_to_type",
            "swiglu_param_limit",
            "swiglu_param_alpha",
            "swiglu_param_beta",
        ),
    ),
    "NMS": ("INMSLayer", ("bounding_box_format", "topk_box_limit")),
    "NON_ZERO": ("INonZeroLayer", ()),
    "NORMALIZATION": ("INormalizationLayer", ("epsilon", "axes", "num_groups", "is_v2")),
    "ONE_HOT": ("IOneHotLayer", ("axis",)),
    "PADDING": ("IPaddingLayer", ("pre_padding_nd", "post_padding_nd")),
    "PARAMETRIC_RELU": ("IParametricReLULayer", ()),
    "POOLING": (
        "IPoolingLayer",
        (
            "type",
            "window_size_nd",
            "stride_nd",
            "pre_padding",
            "post_padding",
            "padding_mode",
            "blend_factor",
            "average_count_excludes_padding",
        ),
    ),
    "QUANTIZE": ("IQuantizeLayer", ("axis", "block_shape", "to_type")),
    "RAGGED_SOFTMAX": ("IRaggedSoftMaxLayer", ()),
    "RECURRENCE": ("IRecurrenceLayer", ()),
    "REDUCE": ("IReduceLayer", ("op", "axes", "keep_dims")),
    "RESIZE": (
        "IResizeLayer",
        (
            "shape",
            "scales",
            "resize_mode",
            "coordinate_transformation",
            "selector_for_single_pixel",
            "nearest_rounding",
            "exclude_outside",
            "cubic_coeff",
        ),
    ),
    "REVERSE_SEQUENCE": ("IReverseSequenceLayer", ("batch_axis", "sequence_axis")),
    "ROTARY_EMBEDDING": ("IRotaryEmbeddingLayer", ("interleaved", "rotary_embedding_dim")),
    "SCALE": ("IScaleLayer", ("mode", "shift", "scale", "power", "channel_axis")),
    "SCATTER": ("IScatterLayer", ("axis", "mode")),
    "SELECT": ("ISelectLayer", ()),
    "SHAPE": ("IShapeLayer", ()),
    "SHUFFLE": (
        "IShuffleLayer",
        ("first_transpose", "reshape_dims", "second_transpose", "zero_is_placeholder"),
    ),
    "SLICE": ("ISliceLayer", ("start", "shape", "stride", "axes", "mode")),
    "SOFTMAX": ("ISoftMaxLayer", ("axes",)),
    "SQUEEZE": ("ISqueezeLayer", ()),
    "TOPK": ("ITopKLayer", ("op", "k", "axes")),
    "TRIP_LIMIT": ("ITripLimitLayer", ("kind",)),
    "UNARY": ("IUnaryLayer", ("op",)),
    "UNSQUEEZE": ("IUnsqueezeLayer", ()),
}

# Attributes that an input replaces: layer type -> attribute -> input.  TensorRT warns when such an attribute
# is read while its input is set.
_REPLACED: dict[str, dict[str, int]] = {
    "CONVOLUTION": {"kernel": 1, "bias": 2},
    "DECONVOLUTION": {"kernel": 1, "bias": 2},
    "FILL": {"shape": 0, "alpha": 1, "beta": 2},
    "RESIZE": {"shape": 1, "scales": 1},
    "SHUFFLE": {"reshape_dims": 1},
    "SLICE": {"start": 1, "shape": 2, "stride": 3, "axes": 5},
    "TOPK": {"k": 1},
}

# Boundary layers know the loop or conditional they belong to through this property.
_OWNERS = {
    "TRIP_LIMIT": "loop",
    "RECURRENCE": "loop",
    "ITERATOR": "loop",
    "LOOP_OUTPUT": "loop",
    "CONDITION": "conditional",
    "CONDITIONAL_INPUT": "conditional",
    "CONDITIONAL_OUTPUT": "conditional",
}

_ATTENTION = ("norm_op", "causal", "causal_kind", "query_form", "key_value_form")


@dataclass(frozen=True)
class NetworkInput:
    """A network input: its value, name, data type by name and shape (-1 for a dynamic size)."""

    value: int
    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """Everything a program needs of a network.

    ``groups`` maps a step's position to the position of the loop or conditional it bounds in ``owners``,
    a list of (kind, name).
    """

    steps: tuple[Step, ...]
    inputs: tuple[NetworkInput, ...]
    outputs: tuple[tuple[int, str], ...]
    groups: dict[int, int]
    owners: tuple[tuple[str, str], ...]


def read(network: Any, keep_alive: Iterable[Tensor] = ()) -> Reading:
    """Read ``network``, an ``INetworkDefinition``, into steps in the network's layer order.

    Raises:
        InterpreterError: a layer type is unknown, or TensorRT rejected a layer.
    """
    return _Reader(network, keep_alive).read()


class _Reader:
    def __init__(self, network: Any, keep_alive: Iterable[Tensor]) -> None:
        self._trt = load()
        self._network = network
        self._weights = WeightReader(keep_alive)
        # The bindings give the same Python object for the same C++ object only while it lives: all
        # are kept until the end, so that identity means identity.
        self._values: dict[int, int] = {}
        self._alive: list[Any] = []
        self._owners: dict[int, int] = {}
        self._attention_inputs: dict[int, Any] = {}
        self._owner_names: list[tuple[str, str]] = []

    def read(self) -> Reading:
        network = self._network
        inputs = []
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            shape = tuple(tensor.shape)
            inputs.append(NetworkInput(self._value(tensor), tensor.name, tensor.dtype.name, shape))
        steps: list[Step] = []
        groups: dict[int, int] = {}
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            self._alive.append(layer)
            kind = layer.type.name
            if kind == "ATTENTION_INPUT":
                link = layer.get_output(0)
                self._alive.append(link)
                self._attention_inputs[id(link)] = layer
                continue
            if kind in _OWNERS:
                groups[len(steps)] = self._owner(layer, kind)
            steps.append(self._attention(layer) if kind == "ATTENTION_OUTPUT" else self._step(layer, kind))
        outputs = []
        for index in range(network.num_outputs):
            tensor = network.get_output(index)
            outputs.append((self._value(tensor), tensor.name))
        return Reading(tuple(steps), tuple(inputs), tuple(outputs), groups, tuple(self._owner_names))

    def _value(self, tensor: Any) -> int:
        if id(tensor) not in self._values:
            self._values[id(tensor)] = len(self._values)
            self._alive.append(tensor)
        return self._values[id(tensor)]

    def _input(self, layer: Any, index: int) -> int | None:
        tensor = layer.get_input(index)
        return None if tensor is None else self._value(tensor)

    def _owner(self, layer: Any, kind: str) -> int:
        layer.__class__ = getattr(self._trt, _LAYERS[kind][0])
        owner = getattr(layer, _OWNERS[kind])
        if id(owner) not in self._owners:
            self._owners[id(owner)] = len(self._owner_names)
            self._owner_names.append((_OWNERS[kind], owner.name))
            self._alive.append(owner)
        return self._owners[id(owner)]

    def _step(self, layer: Any, kind: str) -> Step:
        if kind not in _LAYERS or not hasattr(self._trt, _LAYERS[kind][0]):
            raise InterpreterError(
                f"layer {layer.name!r} has type {kind}, which the interpreter does not run; run the engine "
                "on a GPU, or keep the operation in PyTorch"
            )
        class_name, names = _LAYERS[kind]
        layer.__class__ = getattr(self._trt, class_name)
        inputs = tuple(self._input(layer, index) for index in range(layer.num_inputs))
        replaced = {
            name for name, index in _REPLACED.get(kind, {}).items() if index < len(inputs) and inputs[index] is not None
        }
        if kind == "RESIZE" and self._attribute(layer, "shape") is not None:
            replaced.add("scales")  # one or the other is set, and TensorRT warns when the other is read
        attributes = {
            name: None if name in replaced else self._attribute(layer, name)
            for name in names
            if hasattr(type(layer), name)
        }
        if kind == "FILL" and getattr(layer, "is_alpha_beta_int64", bool)():
            for name in {"alpha", "beta"} - replaced:
                attributes[name] = int(getattr(layer, name))
        return self._finish(layer, kind, inputs, attributes, layer.metadata)

    def _attention(self, boundary: Any) -> Step:
        boundary.__class__ = self._trt.IAttentionOutputLayer
        attention = boundary.attention
        self._alive.append(attention)
        source = boundary.get_input(0)
        entry = self._attention_inputs[id(source)]
        inputs = tuple(self._input(entry, index) for index in range(entry.num_inputs))
        attributes = {
            name: self._plain(getattr(attention, name)) for name in _ATTENTION if hasattr(type(attention), name)
        }
        if self._trt.__name__ == "tensorrt_rtx":
            # TensorRT-RTX accepts NONE and applies the softmax nevertheless: observed on TensorRT-RTX 1.6.1,
            # compute capability 9.0.
            attributes["norm_op"] = "SOFTMAX"
        if len(inputs) > 4 and inputs[4] is not None:
            attributes["normalization_quantize_to_type"] = attention.normalization_quantize_to_type.name
        return self._finish(boundary, "ATTENTION", inputs, attributes, attention.metadata, attention.name)

    def _finish(
        self,
        layer: Any,
        kind: str,
        inputs: tuple[int | None, ...],
        attributes: dict[str, Any],
        metadata: str,
        name: str | None = None,
    ) -> Step:
        tensors = [layer.get_output(index) for index in range(layer.num_outputs)]
        shapes = []
        for tensor in tensors:
            try:
                shapes.append(tuple(tensor.shape))
            except (ValueError, RuntimeError) as error:
                raise InterpreterError(
                    f"TensorRT rejected layer {layer.name!r} ({kind}): {error} Its logger holds the reason."
                ) from error
        return Step(
            name=name or layer.name,
            type=kind,
            inputs=inputs,
            outputs=tuple(self._value(tensor) for tensor in tensors),
            attributes=attributes,
            metadata=metadata or "",
            output_types=tuple(tensor.dtype.name for tensor in tensors),
            output_shapes=tuple(shapes),
        )

    def _attribute(self, layer: Any, name: str) -> Any:
        try:
            return self._plain(getattr(layer, name))
        except RuntimeError:  # what the bindings raise for an attribute that was never set
            return None

    def _plain(self, value: Any) -> Any:
        """An attribute without TensorRT in it."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if hasattr(type(value), "__members__"):
            return value.name
        if isinstance(value, self._trt.Weights) or hasattr(value, "__array_interface__"):
            return self._weights.read(value)
        # ``Dims`` that were never set hold a negative rank, which the bindings show as a length error.
        try:
            return tuple(value)
        except ValueError:
            return None
