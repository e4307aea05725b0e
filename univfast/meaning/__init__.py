"""What neurons do: contexts, features that explain them, weights, and what is lost without them.

===================  ======================================================================
``chosen``           the pairs of a result that are looked at
``columns``          their activations, slice by slice
``live_columns``     those of models that run
``examples``         windows of tokens where they are highest, and where they disagree
``explained``        what was found of pairs, a record each
``features``         what is known of the tokens of a run, and what is asked of each
``properties``       ``FEATURES``: what a token is, one entry each
``explanations``     how much of a neuron each feature explains, streamed
``tallies``          the sums that say so: by group of tokens, and by column
``ranking``          which features are named of a neuron
``regression``       how much several features explain together
``records``          ``contexts.jsonl``: a pair of neurons a line, read and written
``pair_record``      one of these lines
``selection``        neurons that are named
``shown``            how strong a token is, and how it is shown
``frames``           records as a table, in memory and as Parquet
``neuronpedia``      records as Neuronpedia's tools read them
``weights``          `weights`: what the weights of a model say of its neurons
``weight_table``     `WeightTable`, what comes out
``mlp_layers``       which weights are into the neurons of a layer, and out of them
``linear``           linear layers and weight matrices, the right way round
``unembedding``      the matrix that logits are made with
``logits``           what neurons write to the vocabulary, in pieces of it
``ablation``         `ablate`: loss and predictions with neurons set to their means
``ablation_sets``    the sets that are taken out: flagged neurons, random ones, single ones
``ablation_passes``  the passes of a model over a text, for means and without each set
``ablation_result``  `AblationResult`: numbers, files and sentences
``choosing``         which neurons are taken out, and where in the network they are
``activity``         how active the neurons of a layer are
``alike``            random neurons that are about as active
``replacing``        neurons of a live model that are set to numbers
``next_token``       how well the next token is predicted, and how predictions move
``effects``          means a token, with intervals over documents
``held_out``         the models of the command line, and what they read
===================  ======================================================================
"""
