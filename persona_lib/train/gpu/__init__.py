"""Training on a GPU: packed rows, recorded steps, memory."""
