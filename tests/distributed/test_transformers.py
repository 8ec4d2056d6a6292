"""A model of transformers whose own plan of tensor parallelism shards it."""

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

import engine
import engine.torch_compile.backend
from tests.models import declare_torchvision_operators

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def run_llama():
    declare_torchvision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.distributed import DistributedConfig
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    size = distributed.get_world_size()
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        use_cache=False,
    )
    torch.manual_seed(0)
    whole = LlamaForCausalLM(config).eval()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    # What from_pretrained(distributed_config=DistributedConfig(tp_plan="auto")) does, which needs accelerate.
    plan = model._resolve_parallel_plans(DistributedConfig(tp_size=size, tp_plan="auto"))[0]
    apply_tensor_parallelism(model, init_device_mesh("cpu", (size,), mesh_dim_names=("tp",)), plan)
    tokens = engine.Input(min_shape=(1, 1), opt_shape=(2, 6), max_shape=(3, 16), dtype=torch.int64)
    module = engine.compile(model, (tokens,), runtime="interpreter", min_block_size=1)
    for batch, length in ((1, 1), (2, 6), (3, 16)):
        ids = torch.randint(0, 64, (batch, length), generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(module(ids).logits, whole(ids).logits, **CLOSE)
    torch._dynamo.reset()
    options = {"runtime": "interpreter", "min_block_size": 1, "pass_through_build_failures": True}
    fast = torch.compile(model, backend="engine", options=options)
    torch.testing.assert_close(fast(ids).logits, whole(ids).logits, **CLOSE)
    return {fallback.op.split(".")[0] for fallback in module.report.fallbacks}


@pytest.mark.slow
def test_the_plan_of_a_model_of_transformers(ranks):
    for outside in ranks.run(run_llama):
        assert outside == {"_c10d_functional"}
