"""What neurons do: where they are highest, what that follows, and what they write.

===============  ===========================================================
``records``      ``contexts.jsonl``: a pair of neurons a line, read and written
``pair_record``  one of these lines
``selection``    neurons that are named
``shown``        how strong a token is, and how it is shown
``frames``       records as a table, in memory and as Parquet
``neuronpedia``  records as Neuronpedia's tools read them
===============  ===========================================================
"""
