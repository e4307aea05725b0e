"""Files and directories that other tools wrote, each read as layers.

=====================  =====================================================================
``parquet``            Parquet: the columns of lists of a file, or of the parts of a table
``parquet_rows``       such a column, decoded as it is read
``parts``              files that are parts of one whole, in their order
``memmaps``            raw arrays with a JSON file beside them; activation caches of these
``saev``               the shards of SAEV
``hdf5``               the datasets of an HDF5 file
``zarr_groups``        the arrays of a zarr group
``chunked``            an array in chunks, of HDF5 or zarr, as a layer
``companions``         masks and token ids that stand beside activations
``delphi``             latents that delphi cached: sparse features of hookpoints
=====================  =====================================================================
"""
