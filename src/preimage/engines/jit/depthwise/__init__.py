"""depthwise."""
