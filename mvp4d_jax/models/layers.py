"""What the transformer is made of: a linear layer and a LayerNorm, parameters in float32 and laid out over the mesh."""

import jax
import jax.numpy as jnp
from flax import nnx

from mvp4d_jax import parallel


class Linear(nnx.Module):
    """x @ kernel + bias. The kernel is kept in float32, split over devices; it is cast and gathered where it is used.

    Args:
      axes: logical axes of the kernel [inputs, outputs].
      dtype: what the product is computed in.
      zero: start at zero instead of Xavier's uniform distribution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        axes: tuple[str | None, str | None],
        dtype: str,
        rngs: nnx.Rngs,
        zero: bool = False,
    ):
        init = nnx.initializers.zeros_init() if zero else nnx.initializers.xavier_uniform()
        self.axes, self.dtype = axes, dtype
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32), out_sharding=axes)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32), out_sharding=(None,))

    def weights(self) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias as they are computed with, whole on every device."""
        kernel = parallel.gather_parameter(self.kernel.get_value().astype(self.dtype), self.axes)
        return kernel, self.bias.get_value().astype(self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.weights()
        return x.astype(self.dtype) @ kernel + bias


class LayerNorm(nnx.Module):
    """LayerNorm over the last dimension, computed and returned in float32."""

    def __init__(self, dim: int, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(dim, jnp.float32), out_sharding=(None,))
        self.bias = nnx.Param(jnp.zeros(dim, jnp.float32), out_sharding=(None,))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        x = x - x.mean(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon) * self.scale + self.bias
