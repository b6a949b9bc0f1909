"""Winograd's minimal algorithms: fewer multiplications, in an order of their own; only where accuracy="fast" allows it."""
