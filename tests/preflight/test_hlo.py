"""The count of a compiled program against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mvp4d_jax import parallel
from mvp4d_jax.training.hlo import Cost, compiled_cost, program_cost

WIDTH, ROWS, LAYERS = 64, 32, 5


def test_loops_count_as_often_as_they_run():
    def stack(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    compiled = jax.jit(stack).lower(jnp.ones((LAYERS, WIDTH, WIDTH)), jnp.ones((ROWS, WIDTH))).compile()
    assert program_cost(compiled.as_text()).flops == pytest.approx(2 * ROWS * WIDTH * WIDTH * LAYERS)


def test_batched_products_and_their_gradient():
    def attention(q, k, v):
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k)
        return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v).sum()

    q = jnp.ones((2, 3, 16, 8))
    compiled = jax.jit(jax.grad(attention, argnums=(0, 1, 2))).lower(q, q, q).compile()
    product = 2 * 2 * 3 * 16 * 16 * 8
    # Scores, and the gradients of values, weights, queries and keys; the output itself is not needed for its sum.
    assert program_cost(compiled.as_text()).flops == pytest.approx(5 * product)


def test_collectives_by_kind():
    mesh = parallel.make_mesh((1, 8, 1))
    cut = NamedSharding(mesh, PartitionSpec("fsdp"))
    weights = jax.ShapeDtypeStruct((WIDTH * 8, WIDTH), np.float32, sharding=cut)
    whole = NamedSharding(mesh, PartitionSpec())
    gather = jax.jit(lambda w: w, out_shardings=whole).lower(weights).compile()
    assert program_cost(gather.as_text()).collective_bytes == {"all-gather": WIDTH * 8 * WIDTH * 4}
    total = jax.jit(lambda w: w.sum(0), out_shardings=whole).lower(weights).compile()
    assert program_cost(total.as_text()).collective_bytes == {"all-reduce": 2 * WIDTH * 4}


TPU_TEXT = """HloModule jit_f

%body (arg: (s32[], bf16[4,64,32])) -> (s32[], bf16[4,64,32]) {
  %one = s32[] constant(2)
  %arg = (s32[], bf16[4,64,32]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = bf16[4,64,32] get-tuple-element(%arg), index=1
  %next = s32[] add(%i, %one)
  %call = f32[4,64,32] custom-call(%x, %x, %x), custom_call_target="tpu_custom_call", metadata={op_name="mha_fwd"}
  %gather = (bf16[4,64,32], bf16[4,512,32]) all-gather-start(%x), dimensions={1}
  %done = bf16[4,512,32] all-gather-done(%gather)
  ROOT %out = (s32[], bf16[4,64,32]) tuple(%next, %x)
}

%cond (arg.1: (s32[], bf16[4,64,32])) -> pred[] {
  %limit = s32[] constant(10)
  %arg.1 = (s32[], bf16[4,64,32]) parameter(0)
  %j = s32[] get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[] compare(%j, %limit), direction=LT
}

ENTRY %main (p: bf16[4,64,32], w: bf16[1,32,16]) -> bf16[4,64,32] {
  %p = bf16[4,64,32] parameter(0)
  %w = bf16[1,32,16] parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[4,64,32]) tuple(%zero, %p)
  %loop = (s32[], bf16[4,64,32]) while(%start), condition=%cond, body=%body
  %conv = bf16[4,64,16]{2,1,0:T(8,128)(2,1)} convolution(%p, %w), window={size=1}, dim_labels=0bf_0io->0bf
  ROOT %res = bf16[4,64,32] get-tuple-element(%loop), index=1
}
"""


def test_tpu_text_kernels_steps_of_two_and_async_collectives():
    cost = program_cost(TPU_TEXT)
    kernel = 2 * 2 * 4 * 64 * 64 * 32  # scores and sums of [4, 64, 32] with itself
    assert cost.kernel_flops == 5 * kernel and cost.kernels == 5
    assert cost.flops - cost.kernel_flops == 2 * 4 * 64 * 32 * 16
    assert cost.collective_bytes == {"all-gather": 5 * 4 * 512 * 32 * 2}


FUSED_TEXT = """HloModule jit_g

%start (s: bf16[64,32]) -> bf16[512,32] {
  %s = bf16[64,32] parameter(0)
  ROOT %gather.1 = bf16[512,32] all-gather(%s), channel_id=3, frontend_attributes={chain_id="0"}, dimensions={0}
}

%end (t: bf16[64,32]) -> bf16[512,32] {
  %t = bf16[64,32] parameter(0)
  ROOT %gather.2 = bf16[512,32] all-gather(%t), channel_id=3, frontend_attributes={chain_id="0"}, dimensions={0}
}

%all-reduce-scatter.7 (input: bf16[512,32]) -> bf16[64,32] {
  %input = bf16[512,32] parameter(0)
  %sum = bf16[512,32] all-reduce(%input), channel_id=4, to_apply=%add
  %place = u32[] constant(0)
  ROOT %slice = bf16[64,32] dynamic-slice(%sum, %place, %place), dynamic_slice_sizes={64,32}
}

ENTRY %main (p: bf16[64,32]) -> bf16[64,32] {
  %p = bf16[64,32] parameter(0)
  %async-collective-start = bf16[512,32] fusion(%p), kind=kCustom, calls=%start
  %async-collective-done = bf16[512,32] fusion(%p), kind=kCustom, calls=%end
  ROOT %scattered = bf16[64,32] fusion(%async-collective-done), kind=kCustom, calls=%all-reduce-scatter.7
}
"""


def test_collectives_that_tpu_fusions_hold_count_once():
    whole = 512 * 32 * 2
    assert program_cost(FUSED_TEXT).collective_bytes == {"all-gather": whole, "reduce-scatter": whole}


def test_a_program_that_cannot_be_read_back_counts_nothing():
    """What jaxlib raises for instructions of a newer libtpu; another fault is no matter of versions."""

    class Unreadable:
        error: Exception = jax.errors.JaxRuntimeError("RET_CHECK failure")

        def as_text(self):
            raise self.error

    assert compiled_cost(Unreadable()) == Cost(0.0, 0.0, {}, 0)
    Unreadable.error = TypeError()
    with pytest.raises(TypeError):
        compiled_cost(Unreadable())


def test_a_collective_of_one_device_moves_nothing():
    line = "  ROOT %gather = f32[8,4] all-gather(%p), replica_groups={}, dimensions={{0}}"
    text = "HloModule one\n\nENTRY %main (p: f32[8,4]) -> f32[8,4] {\n  %p = f32[8,4] parameter(0)\n" + line + "\n}\n"
    for groups, moved in (("{{0}}", 0), ("{{0},{1}}", 0), ("[2,1]<=[2]", 0), ("{{0,1}}", 128), ("[1,2]<=[2]", 128)):
        found = program_cost(text.replace("replica_groups={}", f"replica_groups={groups}")).collective_bytes
        assert sum(found.values()) == moved, groups
