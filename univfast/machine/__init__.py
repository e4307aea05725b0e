"""The computer: its devices, its memory, its files, and other processes.

===============  ========================================================="""
