"""PyTorch's side of a model: the network, checkpoints, half precision. What is imported from here imports torch."""
