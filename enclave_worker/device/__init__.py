"""Where kernels run: NumPy on the processor, or CuPy on a GPU, behind one class."""
