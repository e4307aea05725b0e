"""Features of tokens, and how much of a neuron they explain.

==================  ===============================================================
``token_features``  what is known of the tokens of a run, and what is asked of each
``properties``      ``FEATURES``: what a token is, one entry each
``explanations``    how much of a neuron each feature explains, streamed
``tallies``         the sums that say so: by group of tokens, and by column
``ranking``         which features are named of a neuron
``regression``      how much several features explain together
==================  ===============================================================
"""
