"""What the weights of a model say of its neurons.

================  ==============================================================
``weights``       `weights`: what the weights of a model say of its neurons
``weight_table``  `WeightTable`, what comes out
``mlp_layers``    which weights are into the neurons of a layer, and out of them
``linear``        linear layers and weight matrices, the right way round
``unembedding``   the matrix that logits are made with
``logits``        what neurons write to the vocabulary, in pieces of it
================  ==============================================================
"""
