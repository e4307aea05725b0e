"""The CUDA kernels' own source, compiled for the CPU: other headers stand in CUDA's place."""
