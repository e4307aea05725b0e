"""What neurons do: where they are high, which features of the tokens explain them, their weights.

================  ==============================================================================
``chosen``        the pairs of a result that are looked at
``columns``       their activations, slice by slice
``live_columns``  those of models that run
``examples``      windows of tokens where they are highest, and where they disagree
``explained``     what was found of pairs, a record each
``features``      what is known of the tokens of a run, and what is asked of each
``properties``    ``FEATURES``: what a token is, one entry each
``explanations``  how much of a neuron each feature explains, streamed
``tallies``       the sums that says so: by group of tokens, and by column
``ranking``       which features are named of a neuron
``regression``    how much several features explain together
``records``       ``contexts.jsonl``: a pair of neurons a line, read and written
``pair_record``   one of these lines
``selection``     neurons that are named
``shown``         how strong a token is, and how it is shown
``frames``        records as a table, in memory and as Parquet
``neuronpedia``   records as Neuronpedia's tools read them
================  ==============================================================================
"""
