"""The ops that graphs in files may call: those that a compiled model can hold, and that do nothing but compute.

A captured graph is functional ATen.  The names below are those of ATen's ops that are public or that
`torch.export` and PyTorch's decompositions leave in graphs, without ops of single backends (fbgemm, MKL-DNN, cuDNN),
packed weights, quantised, sparse and nested tensors, ops that look at how a tensor is stored, and gradients that are
given places in memory as tensors of indices.  An overload of them is taken if its schema writes to nothing and has
nothing but tensors and plain values.  Collectives do more, and are for processes that are ranks.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

from engine.errors import FileError, SettingsError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ATEN = _words(
    """
    __and__ __lshift__ __or__ __rshift__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d
    _addmm_activation _aminmax _assert_async _assert_scalar _assert_tensor_metadata _batch_norm_no_update
    _batch_norm_with_update_functional _cdist_forward _chunk_cat _conj _conj_physical _convolution _convolution_mode
    _dim_arange _embedding_bag _embedding_bag_forward_only _euclidean_dist
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fft_c2c _fft_c2r _fft_r2c _fused_rms_norm _grouped_mm
    _histogramdd_bin_edges _histogramdd_from_bin_cts _histogramdd_from_bin_tensors _int_mm _is_all_true _is_any_true
    _linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet _linalg_solve_ex _linalg_svd _local_scalar_dense
    _log_softmax _logcumsumexp _lu_with_info _masked_softmax _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _neg_view _pad_circular _pad_enum
    _pdist_forward _prelu_kernel _reshape_copy _safe_softmax _sample_dirichlet _scaled_dot_product_attention_math
    _scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_mm _shape_as_tensor _softmax _softmax_backward_data _stack
    _standard_gamma _thnn_fused_gru_cell _thnn_fused_lstm_cell _to_copy _trilinear _unique _unique2 _unsafe_index
    _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    _weight_int4pack_mm _weight_int4pack_mm_for_cpu _weight_int8pack_mm _weight_norm _weight_norm_interface abs absolute
    acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid_generator alias alias_copy all
    allclose alpha_dropout amax amin aminmax angle any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh
    argmax argmin argsort argwhere as_strided as_strided_copy as_strided_scatter asin asinh atan atan2 atanh atleast_1d
    atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool2d_backward avg_pool3d baddbmm bartlett_window batch_norm
    bernoulli bilinear binary_cross_entropy binary_cross_entropy_with_logits bincount binomial bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor blackman_window block_diag bmm
    broadcast_tensors broadcast_to bucketize cartesian_prod cat cauchy cdist ceil celu chain_matmul chalf
    channel_shuffle cholesky cholesky_inverse cholesky_solve chunk clamp clamp_max clamp_min clip clone col2im
    column_stack combinations complex concat concatenate conj conj_physical constant_pad_nd contiguous conv1d conv2d
    conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution convolution_backward copy copysign corrcoef
    cos cosh cosine_embedding_loss cosine_similarity count_nonzero cov cross cross_entropy_loss ctc_loss cummax cummin
    cumprod cumsum cumulative_trapezoid deg2rad det detach detach_copy diag diag_embed diagflat diagonal diagonal_copy
    diagonal_scatter diff digamma dim dist div divide dot dropout dsplit dstack einsum elu embedding embedding_bag empty
    empty_like empty_permuted empty_strided eq equal erf erfc erfinv exp exp2 expand expand_as expand_copy expm1
    exponential eye fake_quantize_per_channel_affine fake_quantize_per_channel_affine_cachemask
    fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask feature_alpha_dropout feature_dropout
    fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn
    fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq
    fft_rfftn fill fix flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod frac
    fractional_max_pool2d fractional_max_pool3d frexp frobenius_norm full full_like gather gcd ge gelu geometric geqrf
    ger glu gradient greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt
    hamming_window hann_window hardshrink hardsigmoid hardswish hardtanh hash_tensor heaviside hinge_embedding_loss
    histc histogram histogramdd hsplit hstack huber_loss hypot i0 igamma igammac im2col imag index index_add index_copy
    index_fill index_put index_reduce index_select inner instance_norm inverse isclose isfinite isin isinf isnan
    isneginf isposinf isreal istft item kaiser_window kl_div kron kthvalue l1_loss layer_norm lcm ldexp le leaky_relu
    lerp less less_equal lgamma lift_fresh lift_fresh_copy linalg__powsum linalg_cholesky linalg_cholesky_ex linalg_cond
    linalg_cross linalg_det linalg_diagonal linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh
    linalg_householder_product linalg_inv linalg_inv_ex linalg_ldl_factor linalg_ldl_factor_ex linalg_ldl_solve
    linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_lu_solve linalg_matmul linalg_matrix_exp
    linalg_matrix_norm linalg_matrix_power linalg_matrix_rank linalg_multi_dot linalg_norm linalg_pinv linalg_qr
    linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv
    linalg_tensorsolve linalg_vander linalg_vecdot linalg_vector_norm linear linspace log log10 log1p log2 log_normal
    log_sigmoid log_sigmoid_forward log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not
    logical_or logical_xor logit logspace logsumexp lstm lstm_cell lt lu_solve lu_unpack mH mT margin_ranking_loss
    masked_fill masked_scatter masked_select matmul matrix_H matrix_exp matrix_power max max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
    max_unpool3d maximum mean median meshgrid min minimum mish mm mode moveaxis movedim mse_loss msort mul
    multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward multinomial multiply mv mvlgamma nan_to_num
    nanmean nanmedian nanquantile nansum narrow narrow_copy native_batch_norm native_channel_shuffle native_dropout
    native_dropout_backward native_group_norm native_group_norm_backward native_layer_norm native_layer_norm_backward ne
    neg negative new_empty new_empty_strided new_full new_ones new_zeros nextafter nll_loss nll_loss2d
    nll_loss2d_forward nll_loss_forward nll_loss_nd nonzero nonzero_static norm normal normal_functional not_equal
    nuclear_norm numel numpy_T one_hot ones ones_like orgqr ormqr outer pad pad_sequence pairwise_distance pdist permute
    permute_copy pinverse pixel_shuffle pixel_unshuffle poisson poisson_nll_loss polar polygamma positive pow prelu prod
    put qr quantile rad2deg rand rand_like randint randint_like randn randn_like randperm ravel real reciprocal
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg rms_norm rnn_relu
    rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 round row_stack rrelu rrelu_with_noise_functional rsqrt rsub
    scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted segment_reduce select
    select_copy select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh size slice slice_copy slice_inverse
    slice_scatter slogdet smooth_l1_loss soft_margin_loss softmax softplus softshrink sort special_airy_ai
    special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 special_chebyshev_polynomial_t
    special_chebyshev_polynomial_u special_chebyshev_polynomial_v special_chebyshev_polynomial_w special_digamma
    special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1
    special_gammainc special_gammaincc special_gammaln special_hermite_polynomial_h special_hermite_polynomial_he
    special_i0 special_i0e special_i1 special_i1e special_laguerre_polynomial_l special_legendre_polynomial_p
    special_log1p special_log_ndtr special_log_softmax special_logit special_logsumexp special_modified_bessel_i0
    special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_multigammaln special_ndtr
    special_ndtri special_polygamma special_psi special_round special_scaled_modified_bessel_k0
    special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u
    special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w special_sinc special_softmax
    special_spherical_bessel_j0 special_xlog1py special_xlogy special_zeta split split_copy split_with_sizes
    split_with_sizes_copy sqrt square squeeze squeeze_copy stack std std_mean stft stride sub subtract sum sum_to_size
    svd swapaxes swapdims sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size
    sym_storage_offset sym_stride t t_copy take take_along_dim tan tanh tensor_split tensordot threshold tile to topk
    trace transpose transpose_copy trapezoid trapz triangular_solve tril tril_indices triplet_margin_loss triu
    triu_indices true_divide trunc type_as unbind unbind_copy unflatten unfold unfold_copy uniform unique_consecutive
    unique_dim unique_dim_consecutive unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_copy
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d vander var var_mean vdot view view_as view_as_complex view_as_complex_copy view_as_real
    view_as_real_copy view_copy vsplit vstack where xlogy zero zeros zeros_like
    """
)
_PRIMS = _words(
    """
    abs acos acosh add amax amin as_strided_scatter asin asinh atan atan2 atanh bessel_i0 bessel_i0e bessel_i1
    bessel_i1e bessel_j0 bessel_j1 bitwise_and bitwise_not bitwise_or bitwise_xor broadcast_in_dim cat cbrt ceil
    clone collapse collapse_view conj conj_physical convert_element_type cos cosh digamma div empty empty_permuted
    empty_strided eq erf erf_inv erfc erfcx exp exp2 expm1 fft_c2c fft_c2r fft_r2c fill floor fmax fmin fmod frexp
    full full_like gcd ge gt hypot igamma igammac imag iota isfinite item le lgamma log log10 log1p log2 lt maximum
    maximum_value minimum minimum_value mul ndtri ne neg nextafter normal pow prod real reciprocal remainder reshape
    rev round rsqrt scalar_tensor shift_left shift_right_arithmetic sign signbit sin sinh spherical_bessel_j0
    split_dim sqrt squeeze sub sum svd tan tanh transpose trunc uniform var view_of where xor_sum zeta
    """
)
_NAMES = {
    "aten": _ATEN,
    "prims": _PRIMS,
    "quantized_decomposed": _words(
        """
        choose_qparams choose_qparams_per_token choose_qparams_per_token_asymmetric choose_qparams_symmetric
        convert_element_type dequantize_per_channel dequantize_per_channel_group dequantize_per_tensor
        dequantize_per_token fake_quant_per_channel quantize_per_channel quantize_per_channel_group quantize_per_tensor
        quantize_per_token
        """
    ),
    "onnx": frozenset({"Attention", "RotaryEmbedding"}),
    "torch_nn": frozenset({"_linear_cross_entropy_batch_chunked", "_linear_cross_entropy_batch_chunked_no_reduction"}),
    "torchvision": frozenset({"deform_conv2d", "nms", "ps_roi_align", "ps_roi_pool", "roi_align", "roi_pool"}),
    "transformers": frozenset({"grouped_mm_fallback"}),
}
# The parts of PyTorch that register ops which are not there from the start.
_LIBRARIES = {"onnx": "torch.onnx.ops", "quantized_decomposed": "torch.ao.quantization.fx._decomposed"}
# They return nothing, and are there for their errors and for what they tell the tracer.
_ASSERTIONS = frozenset(
    {
        "_assert_async",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)
_PLAIN = frozenset(
    {
        "Device", "Generator", "Layout", "List[Optional[Tensor]]", "List[Tensor]", "List[bool]", "List[float]",
        "List[int]", "List[number]", "MemoryFormat", "ScalarType", "Tensor", "bool", "complex", "float", "int",
        "number", "str",
    }
)  # fmt: skip

# Ops that exchange tensors with the ranks of a process group; where this process has none, files may not call them.
_EXCHANGING = {
    "_c10d_functional": _words(
        """
        all_gather_into_tensor all_gather_into_tensor_coalesced all_reduce all_reduce_coalesced all_to_all_single
        broadcast reduce_scatter_tensor reduce_scatter_tensor_coalesced wait_tensor
        """
    ),
    "_dtensor": frozenset({"shard_dim_alltoall"}),
}

HIGHER_ORDER = {
    "associative_scan": (0,),
    "cond": (1, 2),
    "map_impl": (0,),
    "scan": (0,),
    "switch": (1,),
    "while_loop": (0, 1),
}
"""Ops that take graphs -> which of their arguments are graphs, or lists of graphs.  All others are tensors and plain
values."""


def find(name: str, allowed: frozenset[str] = frozenset()) -> OpOverload | HigherOrderOperator:
    """The op that a file names: ``aten.add.Tensor`` or ``higher_order.cond``.

    Args:
        allowed: further ops, as `permissions` gives them.

    Raises:
        FileError: there is none, or it is not one that files may call; the message says what to do.
    """
    parts = name.split(".")
    if len(parts) == 2 and parts[0] == "higher_order":
        return _higher_order(parts[1])
    if len(parts) != 3 or not all(part.isidentifier() for part in parts):
        raise FileError(f"the graph calls {name[:80]!r}, which is not an op")
    namespace, packet, overload = parts
    listed = packet in _NAMES.get(namespace, ()) or _exchanges(namespace, packet)
    if not listed and allowed.isdisjoint((namespace, f"{namespace}.{packet}", name)):
        raise FileError(_refusal(name, namespace))
    if namespace in _LIBRARIES:
        importlib.import_module(_LIBRARIES[namespace])
    found = _overload(namespace, packet, overload)
    if found is None:
        hint = "" if namespace == "aten" else f": import the package that registers {namespace}:: ops before the file"
        raise FileError(
            f"the graph calls {name}, which this PyTorch ({torch.__version__}) does not have{hint}"
            + (" is loaded" if hint else "")
        )
    if allowed.isdisjoint((namespace, f"{namespace}.{packet}", name)) and not computes_only(found):
        raise FileError(f"the graph calls {name}, which does more than compute tensors from its arguments")
    return found


def _exchanges(namespace: str, packet: str) -> bool:
    """Whether an op exchanges tensors with other ranks, and this process is one of several.

    Raises ``FileError`` where it is not.
    """
    if packet not in _EXCHANGING.get(namespace, ()):
        return False
    if not (distributed.is_available() and distributed.is_initialized()):
        raise FileError(
            f"the graph calls {namespace}.{packet}, by which it exchanges tensors with other ranks, and this process "
            "is not one of several: call torch.distributed.init_process_group, make the device mesh of the model, and "
            "load the folder that engine.save wrote on all ranks"
        )
    return True


def is_listed(op: OpOverload | HigherOrderOperator) -> bool:
    """Whether files may call an op without being allowed to."""
    if isinstance(op, HigherOrderOperator):
        return op.name() in HIGHER_ORDER
    names = (*_NAMES.get(op.namespace, ()), *_EXCHANGING.get(op.namespace, ()))
    return op._opname in names and computes_only(op)


@functools.cache
def computes_only(op: OpOverload) -> bool:
    """Whether the schema writes to no argument, and takes and returns nothing but tensors and plain values."""
    schema = op._schema
    if schema.is_mutable and op._opname not in _ASSERTIONS:
        return False
    if not schema.returns and op._opname not in _ASSERTIONS:
        return False
    # A process group, which a graph in a file has by its name.
    plain = _PLAIN | {"Any"} if op.namespace in _EXCHANGING else _PLAIN
    return all(_kind(item) in plain for item in (*schema.arguments, *schema.returns))


def _kind(item: Any) -> str:
    kind = str(item.real_type)
    return kind[len("Optional[") : -1] if kind.startswith("Optional[") else kind


def permissions(allow_ops: Iterable[Any]) -> frozenset[str]:
    """What `engine.load` was told to allow: namespaces, ops and overloads, by name or as objects.

    Raises:
        SettingsError: it is nothing of that.
    """
    if isinstance(allow_ops, str | OpOverload | OpOverloadPacket):
        allow_ops = (allow_ops,)
    found = set()
    for item in allow_ops:
        if isinstance(item, OpOverload | OpOverloadPacket):
            item = str(item)
        text = item.removeprefix("torch.ops.").replace("::", ".") if isinstance(item, str) else ""
        parts = text.split(".")
        if not 1 <= len(parts) <= 3 or not all(part.isidentifier() for part in parts):
            raise SettingsError(f"allow_ops has {item!r}: give names of ops such as 'mylib.op', or op objects")
        if len(parts) == 1 and (text in _NAMES or text == "higher_order"):
            raise SettingsError(f"allow_ops has {item!r}: name the ops of {text} that the file needs one by one")
        found.add(text)
    return frozenset(found)


def _higher_order(name: str) -> HigherOrderOperator:
    if name not in HIGHER_ORDER:
        raise FileError(f"the graph calls higher_order.{name[:80]}, which graphs in files may not call")
    importlib.import_module("torch._higher_order_ops")
    found = torch._ops._higher_order_ops.get(name)
    if found is None:
        raise FileError(f"the graph calls higher_order.{name}, which this PyTorch ({torch.__version__}) does not have")
    return found


def _overload(namespace: str, packet: str, overload: str) -> OpOverload | None:
    qualified = f"{namespace}::{packet}"
    # Asking `torch.ops` first would leave an empty namespace behind where there is none.
    try:
        if not torch._C._dispatch_has_kernel(qualified if overload == "default" else f"{qualified}.{overload}"):
            return None
    except RuntimeError:  # what cannot be the name of an overload
        return None
    found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
    return found if isinstance(found, OpOverload) else None


def _refusal(name: str, namespace: str) -> str:
    if namespace in ("aten", "prims"):
        packet = name.split(".")[1]
        writes = packet.endswith("_") and packet[:-1] in _NAMES[namespace]
        why = "it writes to its arguments" if writes else "it is not among the ops that a compiled model holds"
        return (
            f"the graph calls {name}, which files may not call: {why}; where you know who wrote the file, "
            f"engine.load(path, allow_ops=[{name!r}]) takes it"
        )
    return (
        f"the graph calls {name}, which files may not call by themselves, an op of another library: where you trust "
        f"the file with it, import the package that registers {namespace}:: ops before the file is loaded, and pass "
        f"engine.load(path, allow_ops=[{name!r}])"
    )


__all__ = ["HIGHER_ORDER", "computes_only", "find", "is_listed", "permissions"]
