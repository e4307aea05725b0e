"""The pictures that `univfast.report.plots` offers, a file each.

===============  ====================================================================
``correlation``  actual correlation against the baseline
``excess``       the distribution of the excess
``layers``       which layers of B the neurons of each layer of A have their match in
``models``       smallest correlation over several models against the largest
``canvas``       size, colours, and words in all of them
``marks``        dots, bars and outlines
===============  ====================================================================
"""
