"""Where predictions are computed besides the CPU: GPUs, their buffers and streams, and blending there."""
