"""Files and directories that other tools wrote, each read as layers.

=====================  =====================================================================
``parquet``            Parquet: the columns of lists of a file, or of the parts of a table
``parquet_rows``       such a column, decoded as it is read
``parts``              files that are parts of one whole, in their order
``companions``         masks and token ids that stand beside activations
``delphi``             latents that delphi cached: sparse features of hookpoints
=====================  =====================================================================
"""
