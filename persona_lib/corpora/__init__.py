"""Fine-tuning data: the legal grammar, published corpora, dialogues, advice and its scorer."""
