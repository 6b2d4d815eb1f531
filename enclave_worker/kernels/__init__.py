"""The kernels by subject, their declarations and the registry that lists them."""
