"""The PyTorch half: distils a capture into a 4D Gaussian avatar and renders it. Never imports jax."""
