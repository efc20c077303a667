"""How each algorithm makes its batches and assigns credit.

Each gives an objective (a module) and a stream of steps to the loop.
"""
