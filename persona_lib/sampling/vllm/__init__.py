"""vLLM as the engine that draws completions."""
