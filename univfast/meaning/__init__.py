"""What neurons do: where they are high, which features of the tokens explain them, their weights.

================  ======================================================================
``chosen``        the pairs of a result that are looked at
``columns``       their activations, slice by slice
``live_columns``  those of models that run
``examples``      windows of tokens where they are highest, and where they disagree
``explained``     what was found of pairs, a record each
================  ======================================================================
"""
