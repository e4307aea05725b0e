"""What a network loses without neurons.

===================  ======================================================================
``ablate``           `ablate`: loss and predictions with neurons set to their means
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
