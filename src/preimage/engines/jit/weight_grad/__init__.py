"""The weight gradient: planner, operands, tile and kernel."""
