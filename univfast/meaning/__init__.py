"""What neurons do: where they are high, which features of the tokens explain them, their weights.

================  ======================================================================="""
