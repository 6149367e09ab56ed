"""LoRA training: rows to tokens, the mask proof, the losses, the trainer."""
