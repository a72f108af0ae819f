"""What the worker decides, one module per noun."""
