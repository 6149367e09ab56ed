"""Base models, their loading, and adapter stacks on top of them."""
