"""weight_grad."""
