"""What chance is.

==============  ====================================================================
``intervals``   how sure r is, from blocks of tokens
``kinds``       ``ROTATIONS``: the random matrices that can be chosen
``matrices``    those that are made as a whole
``rotations``   the draws of a layer's baseline: applied to tokens and to co-moments
``statistics``  baseline, excess, chance counts, p and q, from r and the rotated r
==============  ====================================================================
"""
