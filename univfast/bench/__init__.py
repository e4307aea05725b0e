"""This machine against naive torch: what `univfast bench` runs, and the benchmarks build on.

===========  ========================================================
``data``     activations to measure on, and their exact r
``rivals``   the floors, and the same jobs in other libraries
``compare``  the jobs by univfast and by rivals, every answer checked
``table``    times and ratios
===========  ========================================================
"""
