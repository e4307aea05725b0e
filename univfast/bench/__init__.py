"""This machine against naive torch: what `univfast bench` runs, and the benchmarks build on."""
