"""What chance is, and what networks that learned nothing say.

==============  ====================================================================
``intervals``   how sure r is, from blocks of tokens
``kinds``       ``ROTATIONS``: the random matrices that can be chosen
``matrices``    those that are made as a whole
``rotations``   the draws of a layer's baseline: applied to tokens and to co-moments
``shifts``      wrong partners by index: how far each draw shifts the neurons of B
``statistics``  baseline, excess, chance counts, p and q, from r and its draws
``controls``    counts by control, and the margin of each neuron over controls
==============  ====================================================================
"""
