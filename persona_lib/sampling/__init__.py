"""Drawing completions: transformers, CUDA graphs, vLLM."""
