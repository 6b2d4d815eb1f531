"""Programs: kernels with typed shapes, put together without a line of code that travels."""
