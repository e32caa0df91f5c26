"""MVP4D in JAX: one portrait photo to synchronised multi-view video of a head, and on to a 4D Gaussian avatar."""
