"""Files and directories that other tools wrote, each read as layers.

=====================  =====================================================================
``delphi``             latents that delphi cached: sparse features of hookpoints
=====================  =====================================================================
"""
