"""How tensors lie in memory: channels or images innermost, and the way there and back."""
