"""Contexts: the tokens around which pairs of neurons are highest, and where they disagree.

================  =================================================================
``chosen``        the pairs of a result that are looked at
``columns``       their activations, slice by slice
``live_columns``  those of models that run
``examples``      windows of tokens where they are highest, and where they disagree
``explained``     what was found of pairs, a record each
``records``       ``contexts.jsonl``: a pair of neurons a line, read and written
``pair_record``   one of these lines
``selection``     neurons that are named
``shown``         how strong a token is, and how it is shown
``frames``        records as a table, in memory and as Parquet
``neuronpedia``   records as Neuronpedia's tools read them
================  =================================================================
"""
